use super::*;

/// An event that says little.
pub(crate) fn event(id: &str) -> Event {
    let at: Timestamp = "2026-01-02T03:04:05.678901Z".parse().unwrap();
    Event {
        level: Level::Metadata,
        audit_id: id.into(),
        stage: Stage::RequestReceived,
        request_uri: "/api/v1/pods?limit=1".into(),
        verb: "list".into(),
        user: User { name: "jane".into(), groups: vec!["dev".into()], ..User::default() },
        impersonated_user: None,
        source_ips: vec!["10.0.0.1".into()],
        user_agent: "test".into(),
        object_ref: None,
        response_status: None,
        request_object: None,
        response_object: None,
        request_received: at,
        stage_at: at,
        annotations: BTreeMap::new(),
    }
}

#[test]
fn an_event_is_written_as_upstream_writes_it() {
    let text = |event: &Event| String::from_utf8(event.to_json()).unwrap();
    let mut event = event("id");
    assert_eq!(
        text(&event),
        r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"id","stage":"RequestReceived","requestURI":"/api/v1/pods?limit=1","verb":"list","user":{"username":"jane","groups":["dev"]},"sourceIPs":["10.0.0.1"],"userAgent":"test","requestReceivedTimestamp":"2026-01-02T03:04:05.678901Z","stageTimestamp":"2026-01-02T03:04:05.678901Z"}"#
    );
    event.user.extra.insert("k".into(), vec!["v".into()]);
    event.impersonated_user = Some(User { name: "joe".into(), uid: "7".into(), ..User::default() });
    event.object_ref = Some(ObjectRef {
        resource: "pods".into(),
        api_version: "v1".into(),
        uid: "u".into(),
        ..ObjectRef::default()
    });
    event.response_status = Some(Status { code: 200, ..Status::default() });
    event.request_object = Some(Bytes::from_static(b"{\"a\":1}"));
    event.annotations.insert("x".into(), "\"".into());
    let text = text(&event);
    assert!(
        text.contains(r#""user":{"username":"jane","groups":["dev"],"extra":{"k":["v"]}},"impersonatedUser":{"username":"joe","uid":"7"},"#),
        "{text}"
    );
    assert!(
        text.contains(r#""objectRef":{"resource":"pods","uid":"u","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":200},"requestObject":{"a":1},"requestReceived"#),
        "{text}"
    );
    assert!(text.ends_with(r#","annotations":{"x":"\""}}"#), "{text}");
}

#[test]
fn a_failure_is_told_with_its_details() {
    let mut event = event("id");
    let of = apimachinery::status::GroupResource { group: "apps", resource: "deployments" };
    event.response_status = Some(Status::not_found(of, "d"));
    let text = String::from_utf8(event.to_json()).unwrap();
    let expected = r#""responseStatus":{"metadata":{},"status":"Failure","message":"deployments.apps \"d\" not found","reason":"NotFound","details":{"name":"d","group":"apps","kind":"deployments"},"code":404}"#;
    assert!(text.contains(expected), "{text}");
}

#[test]
fn the_old_form_is_one_line() {
    let mut event = event("id");
    assert_eq!(
        event.to_legacy(),
        r#"2026-01-02T03:04:05.678901Z AUDIT: id="id" stage="RequestReceived" ip="10.0.0.1" method="list" user="jane" groups="\"dev\"" as="<self>" asgroups="<lookup>" user-agent="test" namespace="<none>" uri="/api/v1/pods?limit=1" response="<deferred>""#
    );
    event.response_status = Some(Status { code: 201, ..Status::default() });
    assert!(event.to_legacy().ends_with(r#"response="201""#));
}
