//! Services by name, as people write them, and the names near one that nobody has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use proxy_common::{PortName, ServiceId};

use crate::near::near;

/// `[NAMESPACE/]NAME[:PORT]`: the Services with that name, in one namespace or in all, and one of their ports or all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSelector {
    namespace: Option<String>,
    name: String,
    port: Option<String>,
}

/// Why a text selects no Service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a Service is named [NAMESPACE/]NAME[:PORT]")]
pub struct SelectorError;

/// Nobody has the name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node serves no Service \"{selector}\"; {}", advice(near))]
pub struct UnknownService {
    selector: ServiceSelector,
    near: Vec<String>,
}

impl FromStr for ServiceSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let (namespace, rest) = match text.split_once('/') {
            Some((namespace, rest)) => (Some(namespace), rest),
            None => (None, text),
        };
        let (name, port) = match rest.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (rest, None),
        };
        let parts = [namespace, Some(name), port];
        if parts.into_iter().flatten().any(|part| part.is_empty() || part.contains(['/', ':'])) {
            return Err(SelectorError);
        }
        Ok(Self { namespace: namespace.map(Into::into), name: name.into(), port: port.map(Into::into) })
    }
}

impl fmt::Display for ServiceSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name, port } = self;
        if let Some(namespace) = namespace {
            write!(formatter, "{namespace}/")?;
        }
        formatter.write_str(name)?;
        port.iter().try_for_each(|port| write!(formatter, ":{port}"))
    }
}

impl ServiceSelector {
    /// The ids of the Service ports that are meant.
    ///
    /// # Errors
    /// There are none.
    pub(super) fn ids(&self, names: &BTreeMap<ServiceId, PortName>) -> Result<BTreeSet<ServiceId>, UnknownService> {
        let ids: BTreeSet<ServiceId> = names.iter().filter(|(_, name)| self.selects(name)).map(|(&id, _)| id).collect();
        if ids.is_empty() { Err(UnknownService { selector: self.clone(), near: self.near(names) }) } else { Ok(ids) }
    }

    /// The port that is asked for, if one is.
    pub(super) fn port(&self) -> Option<&str> {
        self.port.as_deref()
    }

    /// The same Services with all of their ports.
    pub(super) fn any_port(&self) -> Self {
        Self { port: None, ..self.clone() }
    }

    fn selects(&self, name: &PortName) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| namespace == name.namespace())
            && self.name == name.name()
            && self.port.as_ref().is_none_or(|port| port == name.port())
    }

    /// The names that are most alike, written with the parts that were asked for and always with a namespace.
    fn near(&self, names: &BTreeMap<ServiceId, PortName>) -> Vec<String> {
        let write = |name: &PortName| match &self.port {
            Some(_) => format!("{}/{}:{}", name.namespace(), name.name(), name.port()),
            None => format!("{}/{}", name.namespace(), name.name()),
        };
        let candidates: BTreeSet<(String, String)> = names
            .values()
            .map(|name| {
                let full = write(name);
                let compared = match self.namespace {
                    Some(_) => full.clone(),
                    None => full.split_once('/').map_or_else(|| full.clone(), |(_, rest)| rest.to_owned()),
                };
                (compared, full)
            })
            .collect();
        near(&self.to_string(), candidates)
    }
}

fn advice(near: &[String]) -> String {
    if near.is_empty() {
        "\"proxy-agent services\" lists those that it serves".to_owned()
    } else {
        format!("did you mean {}?", near.join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::Protocol;

    use super::*;

    fn names() -> BTreeMap<ServiceId, PortName> {
        let name = |namespace, name, port| PortName::new(namespace, name, port, Protocol::Tcp).expect("short names");
        let all = [("shop", "web", "http"), ("shop", "web", "https"), ("blog", "web", "http"), ("shop", "cart", "")];
        (1..).map(ServiceId::new).zip(all.map(|(namespace, service, port)| name(namespace, service, port))).collect()
    }

    fn ids(text: &str) -> Result<Vec<u32>, String> {
        let selector: ServiceSelector = text.parse().map_err(|error: SelectorError| error.to_string())?;
        selector
            .ids(&names())
            .map(|ids| ids.into_iter().map(ServiceId::get).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn as_much_as_is_named_must_agree() {
        assert_eq!(ids("web"), Ok(vec![1, 2, 3]));
        assert_eq!(ids("shop/web"), Ok(vec![1, 2]));
        assert_eq!(ids("shop/web:https"), Ok(vec![2]));
        assert_eq!(ids("web:http"), Ok(vec![1, 3]));
    }

    #[test]
    fn a_name_that_nobody_has_leads_to_those_near() {
        let of = |text: &str| ids(text).expect_err("nobody has it");
        assert_eq!(of("shop/wbe"), "this node serves no Service \"shop/wbe\"; did you mean shop/web?");
        assert_eq!(of("wep"), "this node serves no Service \"wep\"; did you mean blog/web or shop/web?");
        assert_eq!(
            of("shop/web:htps"),
            "this node serves no Service \"shop/web:htps\"; did you mean shop/web:https or shop/web:http or blog/web:http?"
        );
        assert_eq!(
            of("zzz"),
            "this node serves no Service \"zzz\"; \"proxy-agent services\" lists those that it serves"
        );
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "/", "shop/", "/web", "shop/web:", "a/b/c", "web:1:2"] {
            assert_eq!(ids(text), Err("a Service is named [NAMESPACE/]NAME[:PORT]".to_owned()), "{text}");
        }
    }
}
