//! Syntax of single values, the same in flags and in the file. Errors say what is wrong with the
//! value, not where it stands.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::SignedDuration;

/// At most one prefix of each family, host bits zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cidrs {
    /// IPv4's.
    pub v4: Option<Ipv4Net>,
    /// IPv6's.
    pub v6: Option<Ipv6Net>,
}

impl Cidrs {
    /// Whether there is neither.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { v4, v6 } = self;
        v4.is_none() && v6.is_none()
    }

    /// The prefixes in `list`, such as a Node's `podCIDRs`.
    ///
    /// # Errors
    /// One is not a prefix, or there are two of one family.
    pub fn from_list<'a>(list: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut cidrs = Self::default();
        for text in list {
            let second = match cidr(text)? {
                IpNet::V4(net) => cidrs.v4.replace(net).is_some(),
                IpNet::V6(net) => cidrs.v6.replace(net).is_some(),
            };
            if second {
                return Err(format!("{text} is a second CIDR of its family, and only one is possible"));
            }
        }
        Ok(cidrs)
    }
}

pub(super) fn cidrs(text: &str) -> Result<Cidrs, String> {
    Cidrs::from_list(text.split(',').map(str::trim).filter(|part| !part.is_empty()))
}

/// `nodePortAddresses`: on which of the node's addresses nodePorts are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// On all.
    #[default]
    All,
    /// On the first of each family that the Node object has.
    Primary,
    /// On those within the prefixes; on all of a family that has none.
    Prefixes(Vec<IpNet>),
}

impl NodePortAddresses {
    /// From the texts of a list: prefixes, or the one word `primary`. Returns what is wrong with each text.
    pub(super) fn from_list<T: AsRef<str>>(texts: &[T]) -> Result<Self, Vec<String>> {
        match texts {
            [] => Ok(Self::All),
            [word] if word.as_ref() == "primary" => Ok(Self::Primary),
            texts => {
                let prefix = |text: &str| match text {
                    "primary" => Err("\"primary\" cannot stand beside others in the list".to_owned()),
                    text => cidr(text),
                };
                let (prefixes, wrong): (Vec<_>, Vec<_>) =
                    texts.iter().map(|text| prefix(text.as_ref())).partition(Result::is_ok);
                if wrong.is_empty() {
                    Ok(Self::Prefixes(prefixes.into_iter().flatten().collect()))
                } else {
                    Err(wrong.into_iter().filter_map(Result::err).collect())
                }
            }
        }
    }
}

pub(super) fn cidr(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| format!("{text:?} is not a CIDR such as 10.244.0.0/16"))?;
    Ok(net.trunc())
}

pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an IP address such as 10.0.0.1 or fd00::1"))
}

/// `address:port`, or an address, which gets the default port.
pub(super) fn listen(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, default_port));
    }
    text.parse().map_err(|_| format!("{text:?} is not an IP address with a port, such as 0.0.0.0:{default_port}"))
}

/// A boolean as kube-proxy's flags know it (Go's `strconv.ParseBool`).
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// A number of things.
pub(super) fn count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{text:?} is not a whole number from 0 to {}", u32::MAX))
}

/// A log level as Kubernetes counts them.
pub(super) fn verbosity(text: &str) -> Result<u8, String> {
    text.parse().map_err(|_| format!("{text:?} is not a whole number from 0 to 255"))
}

/// A duration in Go's syntax, such as `1m30s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let wrong = || format!("{text:?} is not a duration such as 30s or 1m30s");
    let signed: SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(signed).map_err(|_| format!("{text} is negative"))
}

/// `first-last`, `first+count`, one port, or nothing.
pub(super) fn port_range(text: &str) -> Result<(), String> {
    let wrong = || format!("{text:?} is not a port range such as 30000-32767");
    let port = |text: &str| text.trim().parse::<u16>().map_err(|_| wrong());
    if text.trim().is_empty() {
        return Ok(());
    }
    if let Some((first, last)) = text.split_once('-') {
        return if port(first)? <= port(last)? { Ok(()) } else { Err(wrong()) };
    }
    if let Some((first, count)) = text.split_once('+') {
        return port(first)?.checked_add(port(count)?).map(|_| ()).ok_or_else(wrong);
    }
    port(text).map(|_| ())
}

/// The name of a network device: at most 15 bytes (`IFNAMSIZ`), as kube-proxy demands.
pub(super) fn device(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 15 || text.contains(|c: char| c == '/' || c.is_whitespace()) {
        return Err(format!("{text:?} is not the name of a network device (1 to 15 characters)"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidrs_are_one_of_each_family_with_host_bits_cleared() {
        let both = cidrs("10.244.3.1/16, fd00:10:244::/56").expect("one of each family");
        assert_eq!(both.v4, Some("10.244.0.0/16".parse().expect("prefix")));
        assert_eq!(both.v6, Some("fd00:10:244::/56".parse().expect("prefix")));
        assert!(cidrs("").expect("nothing").is_empty());
        assert!(cidrs("10.0.0.0/8,11.0.0.0/8").expect_err("two of one family").contains("11.0.0.0/8"));
        assert!(cidrs("10.0.0.0/33").is_err());
        assert!(cidrs("10.0.0.1").is_err(), "an address is not a prefix");
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("24h0m0s"), Ok(Duration::from_hours(24)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert!(duration("30").is_err(), "no unit");
        assert!(duration("-1s").expect_err("negative").contains("negative"));
        assert!(duration("soon").is_err());
    }

    #[test]
    fn a_bare_address_gets_the_default_port() {
        assert_eq!(listen("127.0.0.1", 10249), Ok("127.0.0.1:10249".parse().expect("address")));
        assert_eq!(listen("::", 10256), Ok("[::]:10256".parse().expect("address")));
        assert_eq!(listen("[::1]:80", 10256), Ok("[::1]:80".parse().expect("address")));
        assert!(listen("localhost:80", 10256).is_err());
        assert!(listen("1.2.3.4:70000", 10256).is_err());
        assert!(listen(":10256", 10256).is_err());
    }

    #[test]
    fn port_ranges() {
        for good in ["", "30000-32767", "30000+10", "8080", "0-0"] {
            assert_eq!(port_range(good), Ok(()), "{good}");
        }
        for bad in ["32767-30000", "x", "1-", "65535+1", "1-70000"] {
            assert!(port_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn device_names() {
        assert_eq!(device("cni0"), Ok("cni0".to_owned()));
        for bad in ["", "sixteen-letters-", "a/b", "a b"] {
            assert!(device(bad).is_err(), "{bad:?}");
        }
    }
}
