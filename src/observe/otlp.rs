//! OTLP to a collector, over gRPC or HTTP, with the official message types and hyper's client.
//!
//! Of gRPC only what one unary call needs is spoken: a length-prefixed message on HTTP/2 and the status
//! in the trailers. Promises: one call is one try, which ends by itself; what the standard says may
//! be tried again is marked. Used by the exporter in `traces`.

use std::fmt;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use percent_encoding::percent_decode_str;
use prost::Message;
use tokio::time::timeout;

use crate::control::{Protocol, Telemetry};

/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer of a collector that is read, bytes.
const LONGEST_ANSWER: usize = 1 << 20;
/// The flag and the length before a message of gRPC.
const PREFIX: usize = 5;
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Statuses of gRPC after which OTLP tries again: cancelled, deadline exceeded, aborted, out of range,
/// unavailable, data loss.
const AGAIN_GRPC: [u8; 6] = [1, 4, 10, 11, 14, 15];

/// The collector of traces.
pub(super) struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: Uri,
    protocol: Protocol,
    headers: HeaderMap,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Why a batch was not taken.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) message: String,
    /// Whether it may be taken later.
    pub(super) again: bool,
}

impl Fault {
    fn later(message: impl Into<String>) -> Fault {
        Fault { message: message.into(), again: true }
    }

    fn never(message: impl Into<String>) -> Fault {
        Fault { message: message.into(), again: false }
    }
}

impl Collector {
    /// Connects to nothing yet.
    pub(super) fn new(settings: &Telemetry) -> Collector {
        let tls = settings.endpoint.scheme_str() == Some("https");
        let of_system = tls.then(|| HttpsConnectorBuilder::new().with_native_roots().ok()).flatten();
        let builder = of_system.unwrap_or_else(|| HttpsConnectorBuilder::new().with_webpki_roots()).https_or_http();
        let mut client = Client::builder(TokioExecutor::new());
        let (connector, media) = match settings.protocol {
            Protocol::Grpc => {
                client.http2_only(true);
                (builder.enable_http2().build(), "application/grpc")
            }
            Protocol::Http => (builder.enable_http1().build(), "application/x-protobuf"),
        };
        let mut headers: HeaderMap = settings.headers.iter().cloned().collect();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("weir/", env!("CARGO_PKG_VERSION"))));
        if settings.protocol == Protocol::Grpc {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        let (endpoint, protocol) = (settings.endpoint.clone(), settings.protocol);
        Collector { client: client.build(connector), endpoint, protocol, headers }
    }

    /// Sends a batch once; how many of its spans the collector refused.
    pub(super) async fn send(&self, batch: &ExportTraceServiceRequest) -> Result<u64, Fault> {
        let mut request = Request::new(Full::new(self.frame(batch)));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        request.headers_mut().clone_from(&self.headers);
        let exchange = async {
            let response = self.client.request(request).await.map_err(|fault| Fault::later(causes(&fault)))?;
            self.read(response).await
        };
        let late = |_| Fault::later(format!("no answer within {} s", PATIENCE.as_secs()));
        let answer = timeout(PATIENCE, Box::pin(exchange)).await.map_err(late)??;
        // What cannot be read says nothing of a refusal.
        let told = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
        Ok(told.partial_success.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0)))
    }

    fn frame(&self, batch: &ExportTraceServiceRequest) -> Bytes {
        if self.protocol == Protocol::Http {
            return batch.encode_to_vec().into();
        }
        let length = batch.encoded_len();
        let mut bytes = BytesMut::with_capacity(PREFIX + length);
        bytes.put_u8(0);
        bytes.put_u32(length as u32);
        bytes.put_slice(&batch.encode_to_vec());
        bytes.freeze()
    }

    /// The message of a good answer.
    async fn read(&self, response: Response<hyper::body::Incoming>) -> Result<Bytes, Fault> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await;
        let body = body.map_err(|fault| Fault::later(format!("its answer broke off: {fault}")))?;
        if head.status != StatusCode::OK {
            let again = matches!(head.status.as_u16(), 429 | 502 | 503 | 504);
            return Err(Fault { message: format!("it answered with status {}", head.status), again });
        }
        if self.protocol == Protocol::Http {
            return Ok(body.to_bytes());
        }
        let status = body.trailers().and_then(grpc_status).or_else(|| grpc_status(&head.headers));
        match status {
            Some((0, _)) => {
                let message = body.to_bytes();
                Ok(message.get(PREFIX..).map_or_else(Bytes::new, |rest| message.slice_ref(rest)))
            }
            Some((code, told)) => {
                let message = format!("it answered with gRPC status {code}: {told}");
                Err(Fault { message, again: AGAIN_GRPC.contains(&code) })
            }
            None => Err(Fault::never("its answer has no gRPC status; is it an OTLP collector for gRPC?")),
        }
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<(u8, String)> {
    let code = headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()?;
    let told = headers.get(GRPC_MESSAGE).and_then(|message| message.to_str().ok()).unwrap_or_default();
    Some((code, percent_decode_str(told).decode_utf8_lossy().into_owned()))
}

/// A fault and what is behind it.
fn causes(fault: &dyn std::error::Error) -> String {
    let mut told = fault.to_string();
    let mut cause = fault.source();
    while let Some(fault) = cause {
        told = format!("{told}: {fault}");
        cause = fault.source();
    }
    told
}
