//! `/etc/hosts`, host names and resolver configuration of pods. Pure, but for the node's own files given as text.

use std::fmt::Write;
use std::net::IpAddr;

use cri::DnsConfig;
use k8s_openapi::api::core::v1::Pod;

use crate::spec;

/// The limits of a resolver's configuration that upstream keeps to.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
/// The longest host name.
const MAX_HOSTNAME_BYTES: usize = 63;

const HOSTS_OF_PODS: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n\
::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n\
fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";
const HOSTS_OF_NODE: &str = "# Kubernetes-managed hosts file (host network).\n";

/// A pod's host name and the domain below which others find it, if it has one.
pub(crate) fn names(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let spec = spec::spec(pod);
    if let Some(whole) = &spec.hostname_override {
        return (whole.clone(), None);
    }
    let mut host = spec
        .hostname
        .clone()
        .filter(|it| !it.is_empty())
        .unwrap_or_else(|| spec::name(pod).to_owned());
    if host.len() > MAX_HOSTNAME_BYTES {
        host.truncate(MAX_HOSTNAME_BYTES);
        host.truncate(host.trim_end_matches(['-', '.']).len());
    }
    let subdomain = spec.subdomain.as_ref().filter(|it| !it.is_empty());
    let domain = subdomain.map(|it| format!("{it}.{}.svc.{cluster_domain}", spec::namespace(pod)));
    (host, domain)
}

/// The text of `/etc/hosts`. `node` is the node's own file, for pods on its network.
pub(crate) fn hosts(pod: &Pod, ips: &[IpAddr], cluster_domain: &str, node: &str) -> String {
    let (host, domain) = names(pod, cluster_domain);
    let mut text = if spec::is_host_network(pod) {
        format!("{HOSTS_OF_NODE}{node}")
    } else {
        let mut text = HOSTS_OF_PODS.to_owned();
        for ip in ips {
            let _ = match &domain {
                Some(domain) => writeln!(text, "{ip}\t{host}.{domain}\t{host}"),
                None => writeln!(text, "{ip}\t{host}"),
            };
        }
        text
    };
    let aliases = spec::spec(pod).host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            let _ = writeln!(text, "{}\t{names}", alias.ip);
        }
    }
    text
}

/// What of the node and the cluster a resolver's configuration is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DnsFacts<'a> {
    pub(crate) cluster_dns: &'a [IpAddr],
    pub(crate) cluster_domain: &'a str,
    /// The node's own `resolv.conf`.
    pub(crate) node: &'a str,
}

/// A pod's resolver configuration.
pub(crate) fn dns(pod: &Pod, facts: DnsFacts<'_>) -> DnsConfig {
    let spec = spec::spec(pod);
    let mut config = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => DnsConfig::default(),
        "Default" => parse(facts.node),
        "ClusterFirst" if spec::is_host_network(pod) => parse(facts.node),
        _ if facts.cluster_dns.is_empty() => parse(facts.node),
        _ => {
            let domain = facts.cluster_domain;
            let own = format!("{}.svc.{domain}", spec::namespace(pod));
            let node = parse(facts.node).searches;
            let mut searches = vec![own, format!("svc.{domain}"), domain.to_owned()];
            searches.extend(node.into_iter().filter(|it| it != "."));
            DnsConfig {
                servers: facts.cluster_dns.iter().map(ToString::to_string).collect(),
                searches,
                options: vec!["ndots:5".into()],
            }
        }
    };
    if let Some(own) = &spec.dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            config.options.retain(|it| it.split(':').next() != Some(name));
            config.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    distinct(&mut config.servers, MAX_NAMESERVERS);
    distinct(&mut config.searches, MAX_SEARCHES);
    config
}

fn distinct(list: &mut Vec<String>, most: usize) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|it| seen.insert(it.clone()));
    list.truncate(most);
}

/// Reads a `resolv.conf`.
pub(crate) fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let word = words.next();
        let rest = words.map(str::to_owned);
        match word {
            Some("nameserver") => config.servers.extend(rest.take(1)),
            Some("search") => config.searches = rest.collect(),
            Some("options") => config.options = rest.collect(),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &str) -> Pod {
        let text = format!(r#"{{"metadata":{{"name":"p","namespace":"ns"}},"spec":{spec}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_subdomain_gives_a_whole_name() {
        let pod = pod(
            r#"{"hostname":"hh","subdomain":"ss","hostAliases":[{"ip":"10.1.2.3","hostnames":["a.x","b.x"]}]}"#,
        );
        let text = hosts(&pod, &["10.0.0.9".parse().unwrap()], "cluster.local", "");
        let end = "10.0.0.9\thh.ss.ns.svc.cluster.local\thh\n\n# Entries added by HostAliases.\n10.1.2.3\ta.x\tb.x\n";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn policies_choose_the_resolver() {
        let facts = DnsFacts {
            cluster_dns: &["10.96.0.10".parse().unwrap()],
            cluster_domain: "cluster.local",
            node: "nameserver 1.1.1.1 # one\nsearch home\noptions edns0\n",
        };
        for (spec, expected) in [
            ("{}", "10.96.0.10|ns.svc.cluster.local svc.cluster.local cluster.local home|ndots:5"),
            (r#"{"dnsPolicy":"Default"}"#, "1.1.1.1|home|edns0"),
            (r#"{"hostNetwork":true}"#, "1.1.1.1|home|edns0"),
            (
                r#"{"dnsPolicy":"None","dnsConfig":{"nameservers":["10.9.9.9"],"searches":["q.x"],"options":[{"name":"ndots","value":"2"}]}}"#,
                "10.9.9.9|q.x|ndots:2",
            ),
        ] {
            let it = dns(&pod(spec), facts);
            let text = format!(
                "{}|{}|{}",
                it.servers.join(" "),
                it.searches.join(" "),
                it.options.join(" ")
            );
            assert_eq!(text, expected, "{spec}");
        }
    }
}
