//! From the API's `EndpointSlice` to [`EndpointSlice`].

use std::{
    borrow::Borrow,
    collections::HashSet,
    hash::Hash,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::{
    api::{core::v1::ObjectReference, discovery::v1 as api},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};

use super::{
    Conditions, Endpoint, EndpointPort, EndpointSlice, Hints, IpFamily, Kind, ObjectName, Parsed, Reason, address,
    parse::{HEADLESS, Problems, has_label, long_name, namespaced, table_name},
    problem::quoted,
};

/// Names the Service a slice belongs to.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// When the newest change of a pod or Service happened that the slice reflects.
const LAST_CHANGE_TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

impl EndpointSlice {
    /// Reads the API's object.
    ///
    /// Without an object and without a problem: a slice that nodes do not use (of a headless Service,
    /// no label `kubernetes.io/service-name`, or addressType `FQDN`).
    #[must_use]
    pub fn from_api(slice: &api::EndpointSlice) -> Parsed<Self> {
        let api::EndpointSlice { address_type, endpoints, metadata, ports } = slice;
        let mut problems = Problems::new(Kind::EndpointSlice, namespaced(metadata));
        let label = metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL));
        let Some(service) = label.filter(|service| !service.is_empty()) else { return problems.finish(None) };
        if has_label(metadata, HEADLESS) || address_type == "FQDN" {
            return problems.finish(None);
        }
        let name = namespaced(metadata);
        let named = if name.name().is_empty() { Err(Reason::Missing) } else { long_name(name.name()) };
        let named = problems.keep(named, || "metadata.name".into()).is_some();
        let namespaced = problems.keep(table_name(name.namespace()), || "metadata.namespace".into()).is_some();
        if !named || !namespaced {
            return problems.finish(None);
        }
        let Some(family) = problems.keep(family(address_type), || "addressType".into()) else {
            return problems.finish(None);
        };
        let service = ObjectName::new(name.namespace(), service);
        let ports = self::ports(ports.as_deref().unwrap_or_default(), &mut problems);
        let endpoints = self::endpoints(endpoints, name.namespace(), family, &mut problems);
        let last_change_trigger = last_change_trigger(metadata, &mut problems);
        problems.finish(Some(Self { name, service, family, ports, endpoints, last_change_trigger }))
    }
}

fn family(address_type: &str) -> Result<IpFamily, Reason> {
    match address_type {
        "IPv4" => Ok(IpFamily::V4),
        "IPv6" => Ok(IpFamily::V6),
        "" => Err(Reason::Missing),
        other => Err(Reason::UnknownValue { value: quoted(other), expected: "IPv4, IPv6 or FQDN" }),
    }
}

fn ports(api: &[api::EndpointPort], problems: &mut Problems) -> Box<[EndpointPort]> {
    // The index in the API's list goes along, to name the port that a later one repeats.
    let mut kept: Vec<(usize, EndpointPort)> = Vec::with_capacity(api.len());
    for (index, api::EndpointPort { app_protocol: _, name, port, protocol }) in api.iter().enumerate() {
        let field = |name: &str| format!("ports[{index}].{name}");
        let name = problems.keep(table_name(name.as_deref().unwrap_or_default()), || field("name"));
        let protocol = problems.keep(address::protocol(protocol.as_deref()), || field("protocol"));
        let port = problems.keep(port.ok_or(Reason::AllPorts).and_then(address::port), || field("port"));
        let (Some(name), Some(protocol), Some(port)) = (name, protocol, port) else { continue };
        if let Some((earlier, _)) = kept.iter().find(|(_, other)| *other.name == *name && other.protocol == protocol) {
            problems.push(field("name"), Reason::Repeats(format!("ports[{earlier}].name")));
            continue;
        }
        kept.push((index, EndpointPort { name: name.into(), protocol, port }));
    }
    kept.into_iter().map(|(_, port)| port).collect()
}

fn endpoints(api: &[api::Endpoint], namespace: &str, family: IpFamily, problems: &mut Problems) -> Box<[Endpoint]> {
    let mut nodes = Shared::default();
    let mut hints = Shared::default();
    let mut kept = Vec::with_capacity(api.len());
    for (index, endpoint) in api.iter().enumerate() {
        let Some(address) = first_usable(&endpoint.addresses, index, family, problems) else { continue };
        let node = endpoint.node_name.as_deref().filter(|node| !node.is_empty());
        kept.push(Endpoint {
            address,
            conditions: conditions(endpoint.conditions.as_ref()),
            node: node.map(|node| nodes.share(node)),
            pod: endpoint.target_ref.as_ref().and_then(|target| pod(target, namespace)),
            hints: endpoint.hints.as_ref().and_then(self::hints).map(|new| hints.share(new)),
        });
    }
    kept.into()
}

/// The pod's name, if it is one of this namespace.
fn pod(target: &ObjectReference, namespace: &str) -> Option<Box<str>> {
    let ObjectReference { kind, name, namespace: of, .. } = target;
    let is_here = of.as_deref().is_none_or(|of| of == namespace);
    (kind.as_deref() == Some("Pod") && is_here).then(|| name.as_deref().map(Box::from)).flatten()
}

fn first_usable(texts: &[String], endpoint: usize, family: IpFamily, problems: &mut Problems) -> Option<IpAddr> {
    if texts.is_empty() {
        problems.push(format!("endpoints[{endpoint}].addresses"), Reason::Missing);
    }
    texts.iter().enumerate().find_map(|(index, text)| {
        let parsed = address::endpoint_address(text).and_then(|address| {
            if IpFamily::of(address) == family {
                Ok(address)
            } else {
                Err(Reason::WrongFamily { address, expected: family })
            }
        });
        problems.keep(parsed, || format!("endpoints[{endpoint}].addresses[{index}]"))
    })
}

fn conditions(api: Option<&api::EndpointConditions>) -> Conditions {
    let Some(api::EndpointConditions { ready, serving, terminating }) = api else { return Conditions::READY };
    Conditions {
        ready: ready.unwrap_or(Conditions::READY.ready),
        serving: serving.unwrap_or(Conditions::READY.serving),
        terminating: terminating.unwrap_or(Conditions::READY.terminating),
    }
}

/// `None` if there is no hint at all.
fn hints(api: &api::EndpointHints) -> Option<Hints> {
    let api::EndpointHints { for_nodes, for_zones } = api;
    let nodes: Box<[Box<str>]> = for_nodes.iter().flatten().map(|node| node.name.as_str().into()).collect();
    let zones: Box<[Box<str>]> = for_zones.iter().flatten().map(|zone| zone.name.as_str().into()).collect();
    (!nodes.is_empty() || !zones.is_empty()).then_some(Hints { zones, nodes })
}

fn last_change_trigger(metadata: &ObjectMeta, problems: &mut Problems) -> Option<SystemTime> {
    let text = metadata.annotations.as_ref()?.get(LAST_CHANGE_TRIGGER)?;
    problems.keep(time(text), || format!("metadata.annotations[{LAST_CHANGE_TRIGGER}]"))
}

/// A time after 1969, RFC 3339.
fn time(text: &str) -> Result<SystemTime, Reason> {
    let time = text.parse::<Timestamp>().ok().and_then(|time| u64::try_from(time.as_nanosecond()).ok());
    Ok(SystemTime::UNIX_EPOCH + Duration::from_nanos(time.ok_or_else(|| Reason::NotATime(quoted(text)))?))
}

/// Gives equal values one allocation.
struct Shared<T: ?Sized>(HashSet<Arc<T>>);

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self(HashSet::new())
    }
}

impl<T: ?Sized + Eq + Hash> Shared<T> {
    fn share<V: Borrow<T> + Into<Arc<T>>>(&mut self, value: V) -> Arc<T> {
        if let Some(shared) = self.0.get(value.borrow()) {
            return Arc::clone(shared);
        }
        let shared: Arc<T> = value.into();
        self.0.insert(Arc::clone(&shared));
        shared
    }
}
