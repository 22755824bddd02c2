//! The chart, rendered by Helm's own engine. Where that is not installed (`cargo xtask setup --all`), the tests are listed as
//! ignored.

#![expect(unreachable_pub, reason = "a test program has no outside; `pub` says what the other modules use")]

mod expected;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::OnceLock,
};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use libtest_mimic::{Arguments, Trial};
use proxy_agent::config;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let tests: [(&str, fn()); 9] = [
        ("helm_has_nothing_to_say_against_the_chart", lint),
        ("without_values_it_is_what_the_plain_manifests_are", defaults),
        ("with_least_rights_it_is_what_the_patch_makes_of_the_plain_manifests", least_rights),
        ("every_value_is_used", everything),
        ("kube_proxys_own_config_map_is_mounted_where_kube_proxy_has_it", existing),
        ("accounts_and_rights_of_others_are_used_where_none_are_made", accounts),
        ("values_that_are_wrong_are_refused_by_name", refused),
        ("every_field_is_one_that_kubernetes_knows", typed),
        ("the_dashboard_asks_for_metrics_that_there_are", dashboard),
    ];
    let is_missing = !engine().is_file();
    let trial = |(name, test): (&str, fn())| {
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        // The dashboard is a file; nothing renders it.
        trial
            .with_kind("needs Helm's engine")
            .with_ignored_flag(is_missing && name != "the_dashboard_asks_for_metrics_that_there_are")
    };
    libtest_mimic::run(&Arguments::from_args(), tests.map(trial).into()).exit_code()
}

fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where `cargo xtask setup --all` puts it.
fn engine() -> PathBuf {
    workspace().join("target/helm/libhelm.so")
}

fn chart() -> PathBuf {
    workspace().join("deploy/chart")
}

/// What Helm makes of each case's values, and of the chart without any.
fn rendered() -> &'static BTreeMap<String, Value> {
    static RENDERED: OnceLock<BTreeMap<String, Value>> = OnceLock::new();
    RENDERED.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/render.py");
        let mut python = Command::new("python3");
        python.arg(script).arg(engine()).arg(chart()).env("HELM_DRIVER", "memory");
        let mut child =
            python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("python3 starts");
        let cases = serde_json::to_vec(&expected::cases()).expect("JSON");
        child.stdin.take().expect("a pipe").write_all(&cases).expect("it reads all cases");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", output.status);
        serde_json::from_slice(&output.stdout).expect("JSON")
    })
}

/// The objects of a case by kind and name.
fn objects(case: &str) -> BTreeMap<String, Value> {
    let answer = &rendered()[case];
    let objects = answer["objects"].as_array().unwrap_or_else(|| panic!("{case}: {answer}"));
    let named = |object: &Value| format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]));
    objects.iter().map(|object| (named(object), object.clone())).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn container(objects: &BTreeMap<String, Value>) -> Value {
    objects["DaemonSet/proxy-agent"]["spec"]["template"]["spec"]["containers"][0].clone()
}

fn lint() {
    let answer = rendered()["lint"].to_string();
    assert!(!answer.contains("ERROR") && rendered()["lint"].get("error").is_none(), "{answer}");
}

/// An object without what only Helm adds, and with configuration as what it says rather than as text.
fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    let metadata = object["metadata"].as_object_mut().expect("metadata");
    metadata.remove("annotations");
    metadata.remove("labels");
    if let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) {
        for text in data.values_mut() {
            *text = serde_saphyr::from_str(text.as_str().expect("text")).expect("YAML");
        }
    }
    for container in ["/spec/template/spec/containers/0", "/spec/template/spec/initContainers/0"] {
        if let Some(container) = object.pointer_mut(container).and_then(Value::as_object_mut) {
            container.remove("ports");
            container.remove("imagePullPolicy");
        }
    }
    object
}

fn defaults() {
    let mut plain = BTreeMap::new();
    for file in fs::read_dir(workspace().join("deploy/manifests")).expect("the manifests are there") {
        let content = fs::read_to_string(file.expect("it can be listed").path()).expect("it is text");
        for document in content.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(document).expect("it is YAML");
            let name = format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]));
            plain.insert(name, bare(&object));
        }
    }
    let objects: BTreeMap<_, _> =
        objects("defaults").iter().map(|(name, object)| (name.clone(), bare(object))).collect();
    assert_eq!(objects.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
    for (name, object) in objects {
        assert_eq!(object, plain[&name], "{name}: the chart's on the left, the plain manifest's on the right");
    }
}

/// The patch is a strategic merge: containers are merged by name, mounts by path, and the rest field by field.
fn least_rights() {
    let read = |file: &str| -> Value {
        let content = fs::read_to_string(workspace().join("deploy").join(file)).expect("the file is there");
        serde_saphyr::from_str(&content).expect("it is YAML")
    };
    let (mut expected, patch) = (bare(&read("manifests/daemonset.yaml")), read("least-rights.yaml"));
    let (pod, patch) = (&mut expected["spec"]["template"]["spec"], &patch["spec"]["template"]["spec"]);
    pod["initContainers"] = patch["initContainers"].clone();
    let (container, patch) = (&mut pod["containers"][0], &patch["containers"][0]);
    assert_eq!(container["name"], patch["name"]);
    for (field, value) in patch["securityContext"].as_object().expect("fields") {
        container["securityContext"][field] = value.clone();
    }
    for mount in patch["volumeMounts"].as_array().expect("a list") {
        let mounts = container["volumeMounts"].as_array_mut().expect("a list");
        let same = mounts.iter_mut().find(|known| known["mountPath"] == mount["mountPath"]);
        *same.expect("the patch mounts nothing new") = mount.clone();
    }
    let objects = objects("least rights");
    assert_eq!(bare(&objects["DaemonSet/proxy-agent"]), expected);
}

fn everything() {
    let objects = objects("everything");
    let all = serde_json::to_string(&objects).expect("JSON");
    // Each value of the case is marked; all marks must be found again.
    for mark in expected::marks() {
        assert!(all.contains(&mark), "{mark} has no effect in\n{all}");
    }
    let daemon_set = &objects["DaemonSet/named"];
    let pod = &daemon_set["spec"]["template"]["spec"];
    assert_eq!(pod["hostPID"], json!(false));
    assert_eq!(pod["containers"][0]["image"], json!("marked.example/repository@sha256:".to_owned() + &"0".repeat(64)));
    assert_eq!(objects["PodMonitor/named"]["spec"]["podMetricsEndpoints"][0]["port"], json!("metrics"));
    let dashboard = text(&objects["ConfigMap/named-dashboard"]["data"]["proxy-agent.json"]);
    let original = fs::read_to_string(chart().join("files/dashboard.json")).expect("the dashboard is there");
    let parsed = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    assert_eq!(parsed(dashboard), parsed(&original));
    for object in objects.values() {
        let is_cluster_wide = text(&object["kind"]).starts_with("Cluster");
        assert_eq!(object["metadata"].get("namespace").is_none(), is_cluster_wide, "{object}");
    }
}

fn existing() {
    let objects = objects("existing");
    let container = container(&objects);
    let arguments: Vec<_> = container["args"].as_array().expect("a list").iter().map(text).collect();
    assert!(arguments.contains(&"--config=/var/lib/kube-proxy/config.conf"), "{arguments:?}");
    assert!(!arguments.iter().any(|argument| argument.starts_with("--master")), "{arguments:?}");
    let mounts = container["volumeMounts"].as_array().expect("a list");
    assert!(mounts.contains(&json!({"name": "kube-proxy", "mountPath": "/var/lib/kube-proxy", "readOnly": true})));
    let volumes = objects["DaemonSet/proxy-agent"]["spec"]["template"]["spec"]["volumes"].as_array().expect("a list");
    assert!(volumes.contains(&json!({"name": "kube-proxy", "configMap": {"name": "kube-proxy"}})), "{volumes:?}");
    let data = objects["ConfigMap/proxy-agent"]["data"].as_object().expect("data");
    assert_eq!(data.keys().collect::<Vec<_>>(), ["agent.yaml"]);
}

fn accounts() {
    let objects = objects("accounts");
    assert_eq!(objects.keys().collect::<Vec<_>>(), ["ConfigMap/proxy-agent", "DaemonSet/proxy-agent"]);
    let pod = &objects["DaemonSet/proxy-agent"]["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], json!("theirs"));
}

fn refused() {
    for (case, names) in expected::REFUSED {
        let answer = &rendered()[case];
        let error = answer["error"].as_str().unwrap_or_else(|| panic!("{case} is accepted: {answer}"));
        assert!(error.contains(names), "{case}: {names} is not in {error}");
    }
}

/// Whether a type of Kubernetes takes an object without losing anything of it.
fn is_whole<T: DeserializeOwned + Serialize>(object: &Value) -> bool {
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error} in {object}"));
    serde_json::to_value(typed).expect("JSON") == *object
}

fn typed() {
    for case in ["defaults", "least rights", "everything", "existing", "accounts"] {
        for (name, object) in objects(case) {
            let is_whole = match text(&object["kind"]) {
                "DaemonSet" => is_whole::<DaemonSet>(&object),
                "ConfigMap" => is_whole::<ConfigMap>(&object),
                "ServiceAccount" => is_whole::<ServiceAccount>(&object),
                "ClusterRole" => is_whole::<ClusterRole>(&object),
                "ClusterRoleBinding" => is_whole::<ClusterRoleBinding>(&object),
                // Not Kubernetes' own; its fields are compared in `everything`.
                "PodMonitor" => true,
                kind => panic!("{kind} is not expected"),
            };
            assert!(is_whole, "{case}: {name} has a field that Kubernetes does not know: {object}");
        }
        for (name, object) in objects(case) {
            if let Some(text) = object.pointer("/data/agent.yaml") {
                config::parse_own(text.as_str().expect("text"))
                    .unwrap_or_else(|error| panic!("{case}: {name}: {error:?}"));
            }
            if let Some(text) = object.pointer("/data/config.yaml") {
                config::parse(text.as_str().expect("text")).unwrap_or_else(|error| panic!("{case}: {name}: {error:?}"));
            }
        }
    }
}

fn dashboard() {
    let content = fs::read_to_string(chart().join("files/dashboard.json")).expect("the dashboard is there");
    let dashboard: Value = serde_json::from_str(&content).expect("JSON");
    let known = expected::metrics();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let words = text(&target["expr"]).split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            for word in words.filter(|word| word.starts_with("kubeproxy_") || word.starts_with("proxy_agent_")) {
                asked += 1;
                assert!(known.contains(word), "{word} of panel {} is not among\n{known:?}", panel["title"]);
            }
        }
    }
    assert!(asked > 10, "the dashboard asks for {asked} metrics");
}
