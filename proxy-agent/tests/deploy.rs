//! The manifests in `deploy/` are what Kubernetes and this agent take.

use std::{collections::BTreeMap, fs, path::PathBuf};

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{ConfigMap, Namespace, Node, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use proxy_agent::{config, model};
use serde_json::Value;

fn deploy() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The objects of all files in a folder, by kind.
fn objects(folder: &str) -> BTreeMap<String, Vec<Value>> {
    let mut objects: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for entry in fs::read_dir(deploy().join(folder)).expect("the folder is there") {
        let text = fs::read_to_string(entry.expect("the folder can be read").path()).expect("it is text");
        for document in text.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(document).expect("it is YAML");
            let kind = object["kind"].as_str().expect("it has a kind").to_owned();
            objects.entry(kind).or_default().push(object);
        }
    }
    objects
}

fn typed<T: serde::de::DeserializeOwned>(object: &Value) -> T {
    serde_json::from_value(object.clone()).expect("it has the shape of its kind")
}

#[test]
fn the_daemon_set_runs_the_agent_as_the_account_that_may_do_what_it_does() {
    let objects = objects("manifests");
    let daemon_set: DaemonSet = typed(&objects["DaemonSet"][0]);
    let account: ServiceAccount = typed(&objects["ServiceAccount"][0]);
    let role: ClusterRole = typed(&objects["ClusterRole"][0]);
    let binding: ClusterRoleBinding = typed(&objects["ClusterRoleBinding"][0]);

    let pod = daemon_set.spec.expect("it has a spec").template.spec.expect("it has a pod");
    assert_eq!(pod.service_account_name, account.metadata.name);
    assert_eq!(binding.role_ref.name, role.metadata.name.expect("the role has a name"));
    let subject = &binding.subjects.expect("the binding has subjects")[0];
    assert_eq!(Some(&subject.name), account.metadata.name.as_ref());
    assert_eq!(subject.namespace, account.metadata.namespace);
    assert_eq!(pod.host_network, Some(true));

    let rules = role.rules.expect("the role has rules");
    let resources = |verbs: &[&str]| {
        let rules = rules.iter().filter(|rule| rule.verbs == verbs);
        let mut resources: Vec<_> = rules.flat_map(|rule| rule.resources.clone().unwrap_or_default()).collect();
        resources.sort();
        resources
    };
    assert_eq!(resources(&["get", "list", "watch"]), ["services"], "whose uid Events name");
    assert_eq!(resources(&["list", "watch"]), ["endpointslices", "nodes"]);
    assert_eq!(resources(&["create"]), ["events"], "the agent writes nothing else");
    assert_eq!(rules.len(), 4);
}

#[test]
fn the_agent_takes_the_daemon_sets_arguments_and_configuration() {
    #[derive(clap::Parser)]
    struct Run {
        #[command(flatten)]
        flags: config::RunFlags,
    }

    let objects = objects("manifests");
    let daemon_set: DaemonSet = typed(&objects["DaemonSet"][0]);
    let pod = daemon_set.spec.expect("it has a spec").template.spec.expect("it has a pod");
    let arguments = pod.containers[0].args.clone().expect("the container has arguments");
    let Run { flags } = clap::Parser::try_parse_from(arguments).expect("the agent knows these flags");
    let map: ConfigMap = typed(&objects["ConfigMap"][0]);
    let data = map.data.expect("the ConfigMap has data");
    let mount =
        pod.containers[0].volume_mounts.as_ref().expect("it has mounts").iter().find(|mount| mount.name == "config");
    let folder = PathBuf::from(&mount.expect("the configuration is mounted").mount_path);
    let name = |file: Option<PathBuf>| {
        let file = file.expect("a configuration is given");
        assert_eq!(file.parent(), Some(folder.as_path()));
        file.file_name().expect("it has a name").to_string_lossy().into_owned()
    };
    let own = config::parse_own(&data[&name(flags.agent_config)]).expect("our own configuration is valid");
    assert_eq!((own.socket_lb, own.kube_ovn), (Some(config::SocketLb::All), Some(false)));
    let parsed = config::parse(&data[&name(flags.config)]).expect("the configuration is valid");
    assert_eq!(parsed.detect, config::DetectLocal::ClusterCidr);
    assert_eq!(parsed.kubeconfig, None);
}

#[test]
fn the_kustomization_has_all_manifests() {
    #[derive(serde::Deserialize)]
    struct Kustomization {
        resources: Vec<String>,
    }

    let text = fs::read_to_string(deploy().join("kustomization.yaml")).expect("it is there");
    let Kustomization { mut resources } = serde_saphyr::from_str(&text).expect("it is YAML");
    let files = fs::read_dir(deploy().join("manifests")).expect("the folder is there");
    let name = |file: fs::DirEntry| format!("manifests/{}", file.file_name().to_string_lossy());
    let mut manifests: Vec<_> = files.map(|file| name(file.expect("the folder can be read"))).collect();
    resources.sort();
    manifests.sort();
    assert_eq!(resources, manifests);
}

#[test]
fn the_workloads_of_end_to_end_tests_are_what_kubernetes_takes() {
    fn is_whole<T: serde::de::DeserializeOwned + serde::Serialize>(object: &Value) {
        assert_eq!(serde_json::to_value(typed::<T>(object)).expect("JSON"), *object, "a field is not known");
    }

    let text = fs::read_to_string(deploy().join("e2e/workloads.yaml")).expect("the file is there");
    for document in text.split("\n---\n") {
        let object: Value = serde_saphyr::from_str(document).expect("it is YAML");
        match object["kind"].as_str().expect("it has a kind") {
            "Namespace" => is_whole::<Namespace>(&object),
            "Deployment" => is_whole::<Deployment>(&object),
            "Service" => {
                is_whole::<Service>(&object);
                assert_eq!(object["spec"]["ipFamilyPolicy"], "RequireDualStack", "the scenarios use both families");
            }
            kind => panic!("{kind} is not expected"),
        }
    }
}

#[test]
fn the_demos_objects_are_used_without_a_complaint() {
    let objects = objects("demo");
    let service = model::Service::from_api(&typed::<Service>(&objects["Service"][0]));
    let node = model::Node::from_api(&typed::<Node>(&objects["Node"][0]));
    assert!(service.object.is_some() && service.problems.is_empty(), "{:?}", service.problems);
    assert!(node.object.is_some() && node.problems.is_empty(), "{:?}", node.problems);
    assert_eq!(objects["EndpointSlice"].len(), 2);
    for slice in &objects["EndpointSlice"] {
        let slice = model::EndpointSlice::from_api(&typed::<EndpointSlice>(slice));
        assert!(slice.object.is_some() && slice.problems.is_empty(), "{:?}", slice.problems);
    }
}
