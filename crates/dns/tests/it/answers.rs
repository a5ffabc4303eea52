//! Questions and answers.

use dns::{Index, Outcome};
use hickory_proto::op::Query;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::index;

fn text(record: &Record) -> String {
    let name = |name: &Name| name.to_ascii();
    let data = match &record.data {
        RData::A(a) => a.0.to_string(),
        RData::AAAA(aaaa) => aaaa.0.to_string(),
        RData::PTR(ptr) => name(&ptr.0),
        RData::CNAME(cname) => name(&cname.0),
        RData::NS(ns) => name(&ns.0),
        RData::SRV(srv) => {
            format!("{} {} {} {}", srv.priority, srv.weight, srv.port, name(&srv.target))
        }
        RData::TXT(txt) => txt.txt_data.iter().map(|t| String::from_utf8_lossy(t)).collect(),
        other => format!("{other:?}"),
    };
    format!("{} {data}", record.record_type())
}

/// Records in any order, additional ones after `+`; or the word for what there is instead.
fn ask(index: &Index, name: &str, kind: RecordType) -> String {
    let list = |records: &[Record]| {
        let mut texts: Vec<_> = records.iter().map(text).collect();
        texts.sort();
        texts.join(", ")
    };
    match index.answer(&Query::query(Name::from_ascii(name).unwrap(), kind)) {
        Outcome::Records { answers, additionals } if additionals.is_empty() => list(&answers),
        Outcome::Records { answers, additionals } => {
            let names = additionals.iter().map(|r| format!("{} {}", r.name.to_ascii(), text(r)));
            format!("{} + {}", list(&answers), names.collect::<Vec<_>>().join(", "))
        }
        Outcome::NoData => "no data".to_owned(),
        Outcome::NoName => "no name".to_owned(),
        Outcome::Alias { target, .. } => format!("alias {}", target.to_ascii()),
        Outcome::NotOurs => "not ours".to_owned(),
    }
}

use RecordType::{A, AAAA, CNAME, MX, NS, PTR, SRV, TXT};

const QUESTIONS: &[(&str, RecordType, &str)] = &[
    // services with an address
    ("web.ns.svc.cluster.local.", A, "A 10.96.0.1"),
    ("web.ns.svc.cluster.local.", AAAA, "AAAA fd00::1"),
    ("WEB.ns.SVC.cluster.local.", A, "A 10.96.0.1"),
    ("web.ns.svc.cluster.local.", MX, "no data"),
    ("nope.ns.svc.cluster.local.", A, "no name"),
    ("web.nope.svc.cluster.local.", A, "no name"),
    ("pending.ns.svc.cluster.local.", A, "no name"),
    ("first.web.ns.svc.cluster.local.", A, "A 10.244.0.4"),
    (
        "_http._tcp.web.ns.svc.cluster.local.",
        SRV,
        "SRV 0 100 80 web.ns.svc.cluster.local. + web.ns.svc.cluster.local. A 10.96.0.1, \
         web.ns.svc.cluster.local. AAAA fd00::1",
    ),
    (
        "web.ns.svc.cluster.local.",
        SRV,
        "SRV 0 50 53 web.ns.svc.cluster.local., SRV 0 50 80 web.ns.svc.cluster.local. + \
         web.ns.svc.cluster.local. A 10.96.0.1, web.ns.svc.cluster.local. AAAA fd00::1",
    ),
    ("_http._udp.web.ns.svc.cluster.local.", SRV, "no name"),
    ("_nope._tcp.web.ns.svc.cluster.local.", SRV, "no name"),
    ("_tcp.web.ns.svc.cluster.local.", SRV, "no data"),
    ("_tcp.nope.ns.svc.cluster.local.", SRV, "no name"),
    // headless services
    ("db.ns.svc.cluster.local.", A, "A 10.244.0.5, A 10.244.0.6, A 10.244.0.8"),
    ("db.ns.svc.cluster.local.", AAAA, "AAAA fd01::5"),
    ("db-0.db.ns.svc.cluster.local.", A, "A 10.244.0.5"),
    ("db-0.db.ns.svc.cluster.local.", AAAA, "AAAA fd01::5"),
    ("db-1.db.ns.svc.cluster.local.", AAAA, "no data"),
    ("db-2.db.ns.svc.cluster.local.", A, "no name"),
    ("10-244-0-8.db.ns.svc.cluster.local.", A, "A 10.244.0.8"),
    ("empty.ns.svc.cluster.local.", A, "no name"),
    (
        "_sql._tcp.db.ns.svc.cluster.local.",
        SRV,
        "SRV 0 33 5432 10-244-0-8.db.ns.svc.cluster.local., \
         SRV 0 33 5432 db-0.db.ns.svc.cluster.local., \
         SRV 0 33 5432 db-1.db.ns.svc.cluster.local. + \
         db-0.db.ns.svc.cluster.local. A 10.244.0.5, \
         db-1.db.ns.svc.cluster.local. A 10.244.0.6, \
         10-244-0-8.db.ns.svc.cluster.local. A 10.244.0.8, \
         db-0.db.ns.svc.cluster.local. AAAA fd01::5",
    ),
    // external names
    ("outside.ns.svc.cluster.local.", A, "alias www.example.org."),
    ("outside.ns.svc.cluster.local.", CNAME, "CNAME www.example.org."),
    ("outside.ns.svc.cluster.local.", MX, "no data"),
    // pods
    ("10-244-0-5.ns.pod.cluster.local.", A, "A 10.244.0.5"),
    ("10-244-0-5.ns.pod.cluster.local.", AAAA, "no data"),
    ("10-244-0-5.nope.pod.cluster.local.", A, "no name"),
    ("web-0.ns.pod.cluster.local.", A, "no name"),
    // back from addresses
    ("1.0.96.10.in-addr.arpa.", PTR, "PTR web.ns.svc.cluster.local."),
    ("5.0.244.10.in-addr.arpa.", PTR, "PTR db-0.db.ns.svc.cluster.local."),
    ("4.0.244.10.in-addr.arpa.", PTR, "PTR first.web.ns.svc.cluster.local."),
    ("8.0.244.10.in-addr.arpa.", PTR, "not ours"),
    ("0.244.10.in-addr.arpa.", PTR, "not ours"),
    (
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
        PTR,
        "PTR web.ns.svc.cluster.local.",
    ),
    // the zone itself
    ("cluster.local.", NS, "NS ns.dns.cluster.local."),
    ("cluster.local.", A, "no data"),
    ("ns.dns.cluster.local.", A, "A 10.96.0.10"),
    ("dns-version.cluster.local.", TXT, "TXT 1.1.0"),
    ("dns-version.cluster.local.", A, "no data"),
    ("svc.cluster.local.", A, "no data"),
    ("ns.svc.cluster.local.", A, "no data"),
    ("nope.svc.cluster.local.", A, "no name"),
    ("nope.cluster.local.", A, "no name"),
    ("web.ns.svc.cluster.local.example.org.", A, "not ours"),
    ("example.org.", A, "not ours"),
];

#[test]
fn questions_have_the_answers_of_the_specification() {
    let index = index();
    for (name, kind, expected) in QUESTIONS {
        assert_eq!(ask(&index, name, *kind), *expected, "{name} {kind}");
    }
}

#[test]
fn endpoints_take_turns_in_being_first() {
    let index = index();
    let first = || {
        let name = Name::from_ascii("db.ns.svc.cluster.local.").unwrap();
        let Outcome::Records { answers, .. } = index.answer(&Query::query(name, A)) else {
            panic!("no records");
        };
        text(&answers[0])
    };
    let mut seen: Vec<_> = (0..3).map(|_| first()).collect();
    seen.sort();
    assert_eq!(seen, ["A 10.244.0.5", "A 10.244.0.6", "A 10.244.0.8"]);
}

#[test]
fn what_goes_is_forgotten() {
    let index = index();
    index.delete_slice("ns", "db-1");
    assert_eq!(ask(&index, "db.ns.svc.cluster.local.", A), "no data");
    assert_eq!(ask(&index, "5.0.244.10.in-addr.arpa.", PTR), "not ours");
    assert_eq!(ask(&index, "db-0.db.ns.svc.cluster.local.", AAAA), "AAAA fd01::5");
    index.delete_service("ns", "db");
    assert_eq!(ask(&index, "db.ns.svc.cluster.local.", AAAA), "no name");
    index.delete_service("ns", "web");
    assert_eq!(ask(&index, "1.0.96.10.in-addr.arpa.", PTR), "not ours");
    index.delete_namespace("ns");
    assert_eq!(ask(&index, "ns.svc.cluster.local.", A), "no name");
}

#[test]
fn a_slice_told_before_its_service_waits_for_it() {
    let index = index();
    let slice = "metadata: {name: late-1, namespace: ns, \
        labels: {kubernetes.io/service-name: late}}\naddressType: IPv4\n\
        endpoints: [{addresses: [10.244.9.9]}]\n";
    index.apply_slice(&serde_saphyr::from_str(slice).unwrap());
    assert_eq!(ask(&index, "late.ns.svc.cluster.local.", A), "no name");
    let service = "metadata: {name: late, namespace: ns}\nspec: {clusterIP: None}\n";
    index.apply_service(&serde_saphyr::from_str(service).unwrap());
    assert_eq!(ask(&index, "late.ns.svc.cluster.local.", A), "A 10.244.9.9");
}
