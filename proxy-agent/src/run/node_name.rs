use std::ffi::OsStr;

use thiserror::Error;

/// There is no name for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this host has no name; give the Node's with --hostname-override")]
pub struct NoNodeName;

/// The name of the Node that this host is: what was given, or else the environment's `NODE_NAME`, or
/// else the host's name. In lower case and without blanks around it, as kube-proxy does it.
///
/// # Errors
/// All three are empty.
pub fn node_name(given: Option<&str>, environment: Option<&OsStr>, host: &OsStr) -> Result<String, NoNodeName> {
    let environment = environment.and_then(OsStr::to_str);
    let host = host.to_str();
    let names = [given, environment, host].into_iter().flatten().map(|name| name.trim().to_lowercase());
    names.into_iter().find(|name| !name.is_empty()).ok_or(NoNodeName)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_not_empty_counts() {
        let host = OsStr::new("Host.Example");
        let environment = Some(OsStr::new("node-a"));
        assert_eq!(node_name(Some(" Given "), environment, host), Ok("given".to_owned()));
        assert_eq!(node_name(Some(""), environment, host), Ok("node-a".to_owned()));
        assert_eq!(node_name(None, Some(OsStr::new("")), host), Ok("host.example".to_owned()));
        assert_eq!(node_name(None, None, OsStr::new(" ")), Err(NoNodeName));
    }
}
