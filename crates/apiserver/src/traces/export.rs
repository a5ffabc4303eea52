//! Sends spans to a collector: messages of OpenTelemetry's protocol, written field by field.

use std::time::Duration;

use component_base::ShutdownSignal;
use grpc::wire::{write_bytes, write_fixed, write_message, write_number};
use grpc::{Client, Place};
use spans::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Sent;

const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// How many spans are sent at once, and how long the first waits for others (OpenTelemetry's own limits, as those below).
const BATCH_MAX: usize = 512;
const BATCH_WAIT: Duration = Duration::from_secs(5);
/// How long a collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a collector that is not there is tried again, and after what time.
const TRY_FOR: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// OTLP's status of what failed.
const FAILED: u64 = 2;
/// The tag of an `AnyValue` that is a number.
const NUMBER_TAG: u8 = 3 << 3;
const SERVICE: &str = "apiserver";

/// Sends what comes until `stop`, and last what has come until then.
pub(super) async fn run(
    place: Place,
    instance: String,
    mut spans: mpsc::Receiver<Sent>,
    stop: ShutdownSignal,
) {
    let client = Client::new(place, TIMEOUT);
    let mut batch = Vec::new();
    while !stop.is_requested() {
        tokio::select! {
            count = spans.recv_many(&mut batch, BATCH_MAX) => if count == 0 { return },
            () = stop.requested() => {}
        }
        let full = Instant::now() + BATCH_WAIT;
        while batch.len() < BATCH_MAX && !stop.is_requested() {
            let room = BATCH_MAX - batch.len();
            tokio::select! {
                count = spans.recv_many(&mut batch, room) => if count == 0 { break },
                () = tokio::time::sleep_until(full) => break,
                () = stop.requested() => {}
            }
        }
        send(&client, &instance, &mut batch, &stop).await;
    }
    while let Ok(span) = spans.try_recv() {
        batch.push(span);
    }
    send(&client, &instance, &mut batch, &stop).await;
}

/// Sends a batch; what cannot be sent for some time is lost.
async fn send(client: &Client, instance: &str, batch: &mut Vec<Sent>, stop: &ShutdownSignal) {
    if batch.is_empty() {
        return;
    }
    let message = message(instance, batch);
    let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
    while let Err(status) = client.call(METHOD, &message).await {
        let may_come = status.code == "Unavailable";
        if !may_come || stop.is_requested() || begun.elapsed() + pause > TRY_FOR {
            tracing::warn!(%status, spans = batch.len(), "spans could not be sent, and are lost");
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.requested() => {}
        }
        pause *= 2;
    }
    batch.clear();
}

/// An `ExportTraceServiceRequest`.
fn message(instance: &str, batch: &[Sent]) -> Vec<u8> {
    let mut resource = Vec::new();
    write_attribute(&mut resource, 1, "service.name", SERVICE);
    write_attribute(&mut resource, 1, "service.instance.id", instance);
    let mut scope = Vec::new();
    write_bytes(&mut scope, 1, b"kubelith");
    let mut scoped = Vec::new();
    write_message(&mut scoped, 1, &scope);
    for span in batch {
        write_message(&mut scoped, 2, &encoded(span));
    }
    let mut all = Vec::new();
    write_message(&mut all, 1, &resource);
    write_message(&mut all, 2, &scoped);
    let mut out = Vec::new();
    write_message(&mut out, 1, &all);
    out
}

fn encoded(Sent { trace, span, link }: &Sent) -> Vec<u8> {
    let mut out = Vec::new();
    write_bytes(&mut out, 1, trace);
    write_bytes(&mut out, 2, &span.id);
    if span.parent != [0; 8] {
        write_bytes(&mut out, 4, &span.parent);
    }
    write_bytes(&mut out, 5, span.name.as_bytes());
    write_number(&mut out, 6, span.kind as u64);
    write_fixed(&mut out, 7, span.begun);
    write_fixed(&mut out, 8, span.ended);
    for (name, value) in &span.attributes {
        write_pair(&mut out, 9, name, &any(value));
    }
    if let Some(link) = link {
        let mut message = Vec::new();
        write_bytes(&mut message, 1, &link.trace);
        write_bytes(&mut message, 2, &link.span);
        write_message(&mut out, 13, &message);
    }
    if span.failed {
        let mut status = Vec::new();
        write_number(&mut status, 3, FAILED);
        write_message(&mut out, 15, &status);
    }
    out
}

/// A `KeyValue` of text.
fn write_attribute(out: &mut Vec<u8>, number: u32, name: &str, value: &str) {
    write_pair(out, number, name, &text(value));
}

fn write_pair(out: &mut Vec<u8>, number: u32, name: &str, any: &[u8]) {
    let mut pair = Vec::new();
    write_bytes(&mut pair, 1, name.as_bytes());
    write_message(&mut pair, 2, any);
    write_message(out, number, &pair);
}

/// An `AnyValue`.
fn any(value: &Value) -> Vec<u8> {
    match value {
        Value::Text(it) => text(it),
        // None is a number too.
        Value::Number(0) => vec![NUMBER_TAG, 0],
        Value::Number(it) => {
            let mut any = Vec::new();
            write_number(&mut any, 3, it.cast_unsigned());
            any
        }
    }
}

fn text(it: &str) -> Vec<u8> {
    let mut any = Vec::new();
    write_message(&mut any, 1, it.as_bytes());
    any
}
