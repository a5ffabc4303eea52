//! A played server of documents, on loopback: it answers by path, counts, and can keep silent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Default)]
struct Says {
    answers: BTreeMap<String, String>,
    silent: bool,
    /// The targets that were asked for.
    asked: Vec<String>,
}

pub(crate) struct Played {
    address: SocketAddr,
    says: Arc<Mutex<Says>>,
}

impl Played {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let says = Arc::new(Mutex::new(Says::default()));
        let shared = Arc::clone(&says);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, says }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What is answered at a path from now on.
    pub(crate) fn answers(&self, path: &str, body: &str) {
        self.says.lock().answers.insert(path.to_owned(), body.to_owned());
    }

    /// A vector of values by one label.
    pub(crate) fn answers_query(&self, label: &str, values: &[(&str, &str)]) {
        let one = |(name, value): &(&str, &str)| {
            format!(r#"{{"metric":{{"{label}":"{name}"}},"value":[1767225600.5,"{value}"]}}"#)
        };
        let all: Vec<String> = values.iter().map(one).collect();
        let data = format!(r#"{{"resultType":"vector","result":[{}]}}"#, all.join(","));
        self.answers("/api/v1/query", &format!(r#"{{"status":"success","data":{data}}}"#));
    }

    /// From now on nobody is answered.
    pub(crate) fn be_silent(&self) {
        self.says.lock().silent = true;
    }

    /// The queries that were asked, decoded.
    pub(crate) fn queries(&self) -> Vec<String> {
        let says = self.says.lock();
        let queries = says.asked.iter().filter_map(|it| it.strip_prefix("/api/v1/query?query="));
        let decode = |it: &str| percent_encoding::percent_decode_str(it).decode_utf8_lossy().into();
        queries.map(decode).collect()
    }
}

async fn serve(mut stream: TcpStream, says: Arc<Mutex<Says>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read_exact(&mut byte).await.is_err() {
            return;
        }
        request.push(byte[0]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let (silent, answer) = {
        let mut says = says.lock();
        says.asked.push(target.clone());
        let path = target.split('?').next().unwrap_or_default();
        (says.silent, says.answers.get(path).cloned())
    };
    if silent {
        // The connection stays open until the other side gives up.
        let _ = stream.read(&mut [0]).await;
        return;
    }
    let (code, body) = match answer {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", "nothing".to_owned()),
    };
    let head = format!("HTTP/1.1 {code}\r\ncontent-length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
}
