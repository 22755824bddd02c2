//! What files define, told through the updates that a look at them gives.

use std::collections::BTreeMap;

use super::catalog::{Catalog, Found, News};
use crate::model::{Change, Update};

/// The files of a folder, as a test changes them.
struct Files {
    catalog: Catalog,
    files: BTreeMap<String, Found>,
}

impl Files {
    /// A folder with these files at the first look.
    fn new(files: &[(&str, &str)]) -> (Self, News) {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), Ok((*text).to_owned()))).collect();
        let mut this = Self { catalog: Catalog::default(), files };
        let news = this.catalog.look(this.files.clone());
        (this, news)
    }

    fn write(&mut self, name: &str, text: &str) -> News {
        self.files.insert(name.to_owned(), Ok(text.to_owned()));
        self.catalog.look(self.files.clone())
    }

    fn fail(&mut self, name: &str, reason: &str) -> News {
        self.files.insert(name.to_owned(), Err(reason.to_owned()));
        self.catalog.look(self.files.clone())
    }

    fn remove(&mut self, name: &str) -> News {
        self.files.remove(name);
        self.catalog.look(self.files.clone())
    }
}

/// Each update as `+ kind name detail`, `- kind name` or `= kind [names]`.
fn told(news: &News) -> Vec<String> {
    news.updates
        .iter()
        .map(|update| match update {
            Update::Service(Change::Apply(service)) => format!("+ Service {} {}", service.name, service.cluster_ips[0]),
            Update::Service(Change::Delete(name)) => format!("- Service {name}"),
            Update::Service(Change::Reset(list)) => {
                format!("= Services {:?}", list.iter().map(|service| service.name.to_string()).collect::<Vec<_>>())
            }
            Update::Slice(Change::Apply(slice)) => format!("+ EndpointSlice {}", slice.name),
            Update::Slice(Change::Delete(name)) => format!("- EndpointSlice {name}"),
            Update::Slice(Change::Reset(list)) => {
                format!("= EndpointSlices {:?}", list.iter().map(|slice| slice.name.to_string()).collect::<Vec<_>>())
            }
            Update::Node(Change::Apply(node)) => format!("+ Node {}", node.name),
            Update::Node(Change::Delete(name)) => format!("- Node {name}"),
            Update::Node(Change::Reset(list)) => {
                format!("= Nodes {:?}", list.iter().map(|node| node.name.to_string()).collect::<Vec<_>>())
            }
            Update::Facts(_) => panic!("no file tells of routes"),
        })
        .collect()
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: {ip}\n  ports:\n  - port: 80\n"
    )
}

fn slice(name: &str, service: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  labels:\n    \
         kubernetes.io/service-name: {service}\naddressType: IPv4\nports:\n- port: 8080\nendpoints:\n- addresses: [10.0.0.1]\n"
    )
}

const NODE: &str = "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: node-a\n";

#[test]
fn the_first_look_gives_complete_lists_even_of_nothing() {
    let (_, news) = Files::new(&[]);
    assert_eq!(told(&news), ["= Services []", "= EndpointSlices []", "= Nodes []"]);

    let text = service("web", "10.96.0.1") + &slice("web-1", "web") + NODE;
    let (_, news) = Files::new(&[("all.yaml", &text)]);
    assert_eq!(
        told(&news),
        [r#"= Services ["default/web"]"#, r#"= EndpointSlices ["default/web-1"]"#, r#"= Nodes ["node-a"]"#]
    );
    assert_eq!(news.warnings, [""; 0]);
}

#[test]
fn only_what_changed_is_told_afterwards() {
    let (mut files, _) = Files::new(&[("a.yaml", &(service("web", "10.96.0.1") + &service("db", "10.96.0.2")))]);
    let news = files.write("a.yaml", &(service("db", "10.96.0.2") + &service("web", "10.96.0.7")));
    assert_eq!(told(&news), ["+ Service default/web 10.96.0.7"]);
    let news = files.write("b.yaml", &slice("web-1", "web"));
    assert_eq!(told(&news), ["+ EndpointSlice default/web-1"]);
    let news = files.write("a.yaml", &service("db", "10.96.0.2"));
    assert_eq!(told(&news), ["- Service default/web"]);
    let news = files.remove("b.yaml");
    assert_eq!(told(&news), ["- EndpointSlice default/web-1"]);
    assert_eq!(files.remove("nothing.yaml"), News::default());
}

#[test]
fn lists_and_json_are_read() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: web, namespace: shop}\n  \
                spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n- {apiVersion: v1, kind: Node, metadata: {name: node-a}}\n";
    let typed = r#"{"apiVersion": "v1", "kind": "ServiceList", "items": [
        {"metadata": {"name": "db"}, "spec": {"clusterIP": "10.96.0.2", "ports": [{"port": 80}]}}]}
        {"apiVersion": "apps/v1", "kind": "Deployment"}"#;
    let (_, news) = Files::new(&[("list.yml", list), ("typed.json", typed)]);
    assert_eq!(
        told(&news),
        [r#"= Services ["default/db", "shop/web"]"#, "= EndpointSlices []", r#"= Nodes ["node-a"]"#]
    );
    assert_eq!(news.warnings, [""; 0]);
}

#[test]
fn what_cannot_be_used_is_named_and_the_rest_is_served() {
    let text = [
        service("web", "10.96.0.1"),
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: typo}\nspec:\n  clusterIP: 10.96.0.3\n  ports:\n  - port: http\n"
            .to_owned(),
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: bad-ip, namespace: shop}\nspec:\n  clusterIP: 10.96.0.300\n  \
         ports: [{port: 80}]\n"
            .to_owned(),
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: no-ip}\nspec:\n  ports: [{port: 80}]\n".to_owned(),
        "---\nkind: Service\nmetadata: {name: x}\n".to_owned(),
        "---\napiVersion: v1\nmetadata: {name: x}\n".to_owned(),
        "---\napiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: old}\n".to_owned(),
        "---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: other}\n".to_owned(),
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: alias}\nspec: {type: ExternalName, externalName: x.example}\n"
            .to_owned(),
        "---\n- a list\n".to_owned(),
    ]
    .concat();
    let (_, news) = Files::new(&[("all.yaml", &text)]);
    assert_eq!(told(&news)[0], r#"= Services ["default/web"]"#);
    let mut warnings = news.warnings;
    warnings.sort_by_key(|warning| warning.split([':', ' ']).nth(1).and_then(|line| line.parse::<u32>().ok()));
    assert_eq!(
        warnings,
        [
            "all.yaml:17 (document 2): Service default/typo: spec.ports[0].port: invalid type: string \"http\", expected i32",
            "all.yaml:23 (document 3): Service shop/bad-ip: spec.clusterIP: \"10.96.0.300\" is not an IP address",
            "all.yaml:29 (document 4): Service default/no-ip: spec.clusterIP: is missing, and without an API server nobody \
             assigns one",
            "all.yaml:32 (document 5): Service: apiVersion: is missing",
            "all.yaml:35 (document 6): kind: is missing",
            "all.yaml:38 (document 7): EndpointSlice: apiVersion: discovery.k8s.io/v1beta1 is not discovery.k8s.io/v1",
            "all.yaml:51 (document 10): kind: is missing",
        ]
    );
}

#[test]
fn a_warning_is_told_once_until_it_changes() {
    let bad = service("web", "10.96.0.300");
    let (mut files, news) = Files::new(&[("a.yaml", &bad)]);
    assert_eq!(news.warnings.len(), 1);
    assert_eq!(files.write("b.yaml", &service("db", "10.96.0.2")).warnings, [""; 0]);
    assert_eq!(files.write("a.yaml", &service("web", "10.96.0.1")).warnings, [""; 0]);
    assert_eq!(files.write("a.yaml", &bad).warnings.len(), 1);
}

#[test]
fn a_broken_document_leaves_what_it_may_be_about_in_force() {
    let (mut files, _) = Files::new(&[("a.yaml", &(service("web", "10.96.0.1") + &service("db", "10.96.0.2")))]);
    let news = files.write("a.yaml", &("---\nmetadata: [\n".to_owned() + &service("db", "10.96.0.9")));
    assert_eq!(told(&news), ["+ Service default/db 10.96.0.9"]);
    assert_eq!(news.warnings.len(), 2, "{:?}", news.warnings);
    assert!(news.warnings[0].starts_with("a.yaml: Service default/web stays"), "{:?}", news.warnings);
    assert!(news.warnings[1].starts_with("a.yaml:"), "{:?}", news.warnings);
    let news = files.write("a.yaml", &service("db", "10.96.0.9"));
    assert_eq!(told(&news), ["- Service default/web"]);
}

#[test]
fn a_file_broken_from_the_start_is_served_as_far_as_it_can_be_read() {
    let (_, news) = Files::new(&[("a.yaml", &("a: [\n".to_owned() + &service("web", "10.96.0.1")))]);
    assert_eq!(told(&news)[0], r#"= Services ["default/web"]"#);
    assert!(news.warnings[0].contains("(document 1)"), "{:?}", news.warnings);
}

#[test]
fn a_file_that_cannot_be_read_stays_in_force() {
    let text = service("web", "10.96.0.1");
    let (mut files, _) = Files::new(&[("a.yaml", &text)]);
    let news = files.fail("a.yaml", "cannot be read: Permission denied");
    assert_eq!(told(&news), [""; 0]);
    assert_eq!(news.warnings, ["a.yaml: cannot be read: Permission denied; what it said before stays in force"]);
    assert_eq!(files.write("a.yaml", &text), News::default());
    assert_eq!(files.fail("a.yaml", "cannot be read: Permission denied").warnings.len(), 1, "told again");
    assert_eq!(told(&files.remove("a.yaml")), ["- Service default/web"]);
}

#[test]
fn the_first_definition_by_file_name_counts() {
    let (mut files, news) =
        Files::new(&[("b.yaml", &service("web", "10.96.0.2")), ("a.yaml", &service("web", "10.96.0.1"))]);
    assert_eq!(news.warnings, ["b.yaml: Service default/web: is defined in a.yaml too, and that one is used"]);
    let news = files.remove("a.yaml");
    assert_eq!(told(&news), ["+ Service default/web 10.96.0.2"]);
    let news = files.write("b.yaml", &(service("web", "10.96.0.2") + &service("web", "10.96.0.3")));
    assert_eq!(told(&news), [""; 0]);
    assert_eq!(news.warnings, ["b.yaml: Service default/web: is defined in b.yaml too, and that one is used"]);
}
