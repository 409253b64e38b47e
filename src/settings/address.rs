//! The address of a backend, as people paste it.
//!
//! Parsed here and not by a general URL crate: what matters is what is *refused*, and why.

use std::net::{IpAddr, Ipv6Addr};

use crate::settings::value;

/// A backend's address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Address {
    pub(crate) tls: bool,
    /// Lower case, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Without trailing slash, usually empty.
    pub(crate) path_prefix: String,
    /// A trailing `/openai…` was cut.
    pub(crate) cut: bool,
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").ok_or_else(|| {
            "an address with its scheme, such as \"https://YOUR-RESOURCE.openai.azure.com\"".to_owned()
        })?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err("an address that begins with https:// or http://".to_owned()),
        };
        let path_at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(path_at);
        if authority.contains('@') {
            return Err("an address without user name or password; the key belongs in api_key".to_owned());
        }
        let (host, port) = host_and_port(authority)?;
        let (path, cut) = cut_api_path(path);
        if path.contains(['?', '#']) {
            return Err("an address without `?…` or `#…`; the key belongs in api_key".to_owned());
        }
        let path_prefix = value::path_prefix(path)?;
        Ok(Self { tls, host, port: port.unwrap_or(if tls { 443 } else { 80 }), path_prefix, cut })
    }

    /// The address in its one canonical form.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let port = match (self.tls, self.port) {
            (true, 443) | (false, 80) => String::new(),
            (_, port) => format!(":{port}"),
        };
        format!("{scheme}://{host}{port}{}", self.path_prefix)
    }

    /// What the backend is called when nobody named it: the first label of its host, or its IP address with its port.
    pub(crate) fn label(&self) -> String {
        let label = match self.host.parse::<IpAddr>() {
            Ok(_) => format!("{}-{}", self.host.replace(':', "-"), self.port),
            Err(_) => self.host.split('.').next().unwrap_or_default().to_owned(),
        };
        label.chars().take(60).collect()
    }

    pub(crate) fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host == "localhost" || self.host.ends_with(".localhost"),
        }
    }
}

fn host_and_port(authority: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("an IPv6 address closed by `]`")?;
            host.parse::<Ipv6Addr>().map_err(|_| "an IPv6 address between the brackets".to_owned())?;
            (host, port.strip_prefix(':').or_else(|| (!port.is_empty()).then_some(port)))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        None => None,
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 => Some(port),
            _ => return Err("a port from 1 to 65535 after the host".to_owned()),
        },
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(allowed);
    let name = host.len() <= 253 && host.split('.').all(label);
    if !name && !host.contains(':') {
        return Err("a host name or an IP address after the scheme".to_owned());
    }
    Ok((host.to_ascii_lowercase(), port))
}

/// The portal shows addresses with the whole path of an operation, query included; requests bring their own.
fn cut_api_path(path: &str) -> (&str, bool) {
    let end = path.find(['?', '#']).unwrap_or(path.len());
    let mut at = 0;
    for segment in path[..end].split('/') {
        if segment.eq_ignore_ascii_case("openai") {
            return (&path[..at], true);
        }
        at += segment.len() + 1;
    }
    (path, false)
}
