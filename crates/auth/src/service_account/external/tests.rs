//! A signer on a socket, whose keys come and go.

use apimachinery::value;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use component_base::{Clock, RealClock};
use grpc::wire::{write_message, write_number};
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::Authenticator;
use crate::fixed::FixedObjects;
use crate::jwt::SigningKey;
use crate::service_account::{Named, ServiceAccountTokens, TokenIssuer, TokenSpec};

/// What the signer does.
#[derive(Default)]
struct Behaviour {
    /// The keys it tells of: id, key, whether it is to be kept from others.
    keys: Vec<(&'static str, rcgen::KeyPair, bool)>,
    max_seconds: u64,
    /// Another algorithm in headers than is used.
    algorithm: Option<&'static str>,
    fetched: usize,
}

struct Played {
    behaviour: Arc<Mutex<Behaviour>>,
    directory: TempDir,
    metrics: Metrics,
}

async fn started(socket: PathBuf, metrics: &Metrics) -> Result<Arc<ExternalSigner>, String> {
    ExternalSigner::start(socket, Arc::new(RealClock), metrics).await
}

impl Played {
    fn start(max_seconds: u64) -> Self {
        let mut behaviour = Behaviour { max_seconds, ..Behaviour::default() };
        behaviour.keys.push(("one", rcgen::KeyPair::generate().unwrap(), false));
        let played = Self {
            behaviour: Arc::new(Mutex::new(behaviour)),
            directory: tempfile::tempdir().unwrap(),
            metrics: Metrics::default(),
        };
        let listener = UnixListener::bind(played.socket()).unwrap();
        let behaviour = Arc::clone(&played.behaviour);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&behaviour)));
            }
        });
        played
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("signer.sock")
    }

    async fn issuer(&self) -> Arc<TokenIssuer> {
        let signer = started(self.socket(), &self.metrics).await.unwrap();
        Arc::new(TokenIssuer::external(signer, "https://me", Vec::new()))
    }
}

impl Played {
    /// Sees that these lines are told.
    fn counts(&self, lines: &[&str]) {
        let mut registry = prometheus_client::registry::Registry::default();
        self.metrics.register(&mut registry);
        let text = component_base::metrics::text(&registry);
        for line in lines {
            assert!(text.lines().any(|it| it == *line), "{line}: {text}");
        }
    }
}

async fn serve(stream: UnixStream, behaviour: Arc<Mutex<Behaviour>>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let behaviour = Arc::clone(&behaviour);
        tokio::spawn(async move { answer(request, respond, &behaviour).await });
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    behaviour: &Mutex<Behaviour>,
) {
    let method = request.uri().path().strip_prefix("/v1.ExternalJWTSigner/").unwrap().to_owned();
    let (mut body, mut message) = (request.into_body(), BytesMut::new());
    while let Some(piece) = body.data().await {
        message.extend_from_slice(&piece.unwrap());
    }
    let reply = reply(&method, &message[5..], &mut behaviour.lock());
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut stream = respond.send_response(head, false).unwrap();
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(reply.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(&reply);
    stream.send_data(framed.into(), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
}

fn reply(method: &str, message: &[u8], behaviour: &mut Behaviour) -> Vec<u8> {
    let mut out = Vec::new();
    match method {
        "Metadata" => write_number(&mut out, 1, behaviour.max_seconds),
        "FetchKeys" => {
            behaviour.fetched += 1;
            for (id, key, is_hidden) in &behaviour.keys {
                let pem = key.public_key_pem();
                let der: String = pem.lines().filter(|it| !it.starts_with("---")).collect();
                let mut one = Vec::new();
                write_bytes(&mut one, 1, id.as_bytes());
                write_bytes(&mut one, 2, &BASE64_STANDARD.decode(der).unwrap());
                write_number(&mut one, 3, u64::from(*is_hidden));
                write_message(&mut out, 1, &one);
            }
            write_message(&mut out, 2, b"\x08\x01");
            write_number(&mut out, 3, 3600);
        }
        "Sign" => {
            let found = fields(message).unwrap();
            let [(1, Field::Bytes(claims))] = found.as_slice() else { panic!("no claims") };
            let (id, key, _) = behaviour.keys.last().unwrap();
            let claims = json::parse(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
            let key = SigningKey::from_pem(&key.serialize_pem()).unwrap();
            let token = key.sign_as(crate::jwt::Algorithm::Es256, id, &claims).unwrap();
            let mut parts = token.split('.');
            let header = parts.next().unwrap().to_owned();
            let header = match behaviour.algorithm {
                Some(algorithm) => BASE64_URL_SAFE_NO_PAD
                    .encode(json::to_vec(&value!({"alg": algorithm, "kid": (*id)}))),
                None => header,
            };
            write_bytes(&mut out, 1, header.as_bytes());
            write_bytes(&mut out, 2, parts.nth(1).unwrap().as_bytes());
        }
        other => panic!("{other} is no method"),
    }
    out
}

fn spec() -> TokenSpec<'static> {
    TokenSpec {
        namespace: "ns",
        account: Some(Named { name: "robot".into(), uid: "u".into() }),
        audiences: vec!["https://me".into()],
        expiration_seconds: 600,
        id: "1".into(),
        ..TokenSpec::default()
    }
}

fn tokens(issuer: &Arc<TokenIssuer>) -> ServiceAccountTokens {
    let objects = FixedObjects::default();
    objects.put(
        "",
        "serviceaccounts",
        &value!({"kind": "ServiceAccount", "apiVersion": "v1",
            "metadata": {"name": "robot", "namespace": "ns", "uid": "u"}}),
    );
    ServiceAccountTokens::new(Arc::clone(issuer), Arc::new(objects), Arc::new(RealClock))
}

#[tokio::test]
async fn tokens_are_signed_elsewhere_and_keys_may_change() {
    let played = Played::start(3600);
    let (here, there) = (played.issuer().await, played.issuer().await);
    assert_eq!(here.max_seconds(), Some(3600));
    let now = RealClock.now();
    let token = here.issue(&spec(), now).await.unwrap();
    let user = tokens(&there).review(&token, &[]).await.unwrap().unwrap().user;
    assert_eq!(user.name, "system:serviceaccount:ns:robot");
    // Another key, which neither server knows: both ask for it when they meet it.
    played.behaviour.lock().keys.push(("two", rcgen::KeyPair::generate().unwrap(), false));
    tokio::time::pause();
    tokio::time::advance(AT_MOST_EVERY).await;
    tokio::time::resume();
    let token = here.issue(&spec(), now).await.unwrap();
    assert!(tokens(&there).review(&token, &[]).await.unwrap().is_some());
    let told = json::to_string(&there.key_set());
    assert!(told.contains("\"one\"") && told.contains("\"two\""), "{told}");
    // Whoever makes up keys does not make this server ask each time.
    let fetched = played.behaviour.lock().fetched;
    for id in ["a", "b", "c"] {
        there.verifying(id).await;
    }
    assert_eq!(played.behaviour.lock().fetched, fetched);
    played.counts(&[
        "apiserver_externaljwt_sign_request_total{code=\"OK\"} 2",
        &format!("apiserver_externaljwt_fetch_keys_request_total{{code=\"OK\"}} {fetched}"),
        "apiserver_externaljwt_request_duration_seconds_count{code=\"OK\",method=\"/v1.ExternalJWTSigner/Sign\"} 2",
        "apiserver_externaljwt_fetch_keys_data_timestamp 1.0",
    ]);
}

#[tokio::test]
async fn what_a_signer_must_not_do_is_refused() {
    let why = started(Played::start(5).socket(), &Metrics::default()).await.unwrap_err();
    assert!(why.contains("is less than acceptable (min 600s)"), "{why}");
    let why = started("/does/not/exist".into(), &Metrics::default()).await.unwrap_err();
    assert!(why.contains("Unavailable") && why.contains("dial unix /does/not/exist"), "{why}");

    let played = Played::start(3600);
    let issuer = played.issuer().await;
    let now = RealClock.now();
    played.behaviour.lock().algorithm = Some("none");
    let why = issuer.issue(&spec(), now).await.unwrap_err();
    assert_eq!(why, "while validating header: bad signing algorithm \"none\"");
    played.behaviour.lock().algorithm = None;
    played.behaviour.lock().keys.push(("secret", rcgen::KeyPair::generate().unwrap(), true));
    tokio::time::pause();
    tokio::time::advance(AT_MOST_EVERY).await;
    tokio::time::resume();
    let why = issuer.issue(&spec(), now).await.unwrap_err();
    assert!(why.ends_with("(kid: secret) is excluded from OIDC discovery docs"), "{why}");
    let robot = Named { name: "robot".into(), uid: "u".into() };
    assert!(issuer.issue_legacy("ns", &robot, "s").is_err());
    played.counts(&["apiserver_externaljwt_sign_request_total{code=\"unknown-non-grpc\"} 2"]);
}
