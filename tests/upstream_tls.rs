//! An upstream behind TLS: the binary trusts what the system trusts, speaks the version that was
//! agreed on, uses a connection again, and refuses a certificate that nobody vouches for.

use std::convert::Infallible;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

const ANSWER: &str = r#"{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"behind TLS"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2},"model":"m"}"#;

/// A server behind TLS that answers every request alike.
struct Upstream {
    port: u16,
    /// Its own certificate, which a client must trust.
    pem: String,
    versions: Arc<Mutex<Vec<Version>>>,
    accepts: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Upstream {
    /// Offers these versions of HTTP.
    async fn start(alpn: &[&str]) -> Upstream {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (versions, accepts) = (Arc::default(), Arc::default());
        let mut serving = JoinSet::new();
        serving.spawn(serve(
            listener,
            TlsAcceptor::from(Arc::new(config)),
            Arc::clone(&versions),
            Arc::clone(&accepts),
        ));
        Upstream { port, pem: made.cert.pem(), versions, accepts, _serving: serving }
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, versions: Arc<Mutex<Vec<Version>>>, accepts: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        accepts.fetch_add(1, Ordering::SeqCst);
        let (tls, versions) = (tls.clone(), Arc::clone(&versions));
        connections.spawn(async move {
            let Ok(stream) = tls.accept(socket).await else { return };
            let answer = service_fn(move |request: Request<Incoming>| {
                versions.lock().unwrap().push(request.version());
                async move {
                    request.into_body().collect().await.unwrap();
                    let answer = Response::new(Full::new(Bytes::from_static(ANSWER.as_bytes())));
                    Ok::<_, Infallible>(answer)
                }
            });
            // The gateway may close while it is killed.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// The binary in front of that upstream; killed when dropped.
struct Gateway {
    url: String,
    _child: Child,
    _folder: TempDir,
}

impl Gateway {
    /// `trusted`: the certificates that the system trusts.
    async fn start(upstream: &Upstream, trusted: &str) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let (config, trust) = (folder.path().join("weir.toml"), folder.path().join("trusted.pem"));
        let endpoint = format!("https://localhost:{}/v1", upstream.port);
        std::fs::write(
            &config,
            format!("[[upstream]]\nname = \"up\"\nendpoints = [\"{endpoint}\"]\nmodels = [\"m\"]\n"),
        )
        .unwrap();
        std::fs::write(&trust, trusted).unwrap();
        let listen = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.arg("serve").arg("--config").arg(&config).env_clear().env("SSL_CERT_FILE", &trust);
        command.args(["--listen", &listen.to_string(), "--admin", "127.0.0.1:0"]);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        Gateway { url: format!("http://{listen}/v1/chat/completions"), _child: child, _folder: folder }
    }

    /// The status and body of an answer, once the gateway listens.
    async fn ask(&self) -> (u16, Value) {
        let url = self.url.clone();
        tokio::task::spawn_blocking(move || {
            let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
            for _ in 0..600 {
                let asked = agent.post(&url).header("content-type", "application/json");
                if let Ok(mut answer) = asked.send(r#"{"model":"up/m","messages":[{"role":"user","content":"hi"}]}"#) {
                    let text = answer.body_mut().read_to_string().unwrap();
                    return (answer.status().as_u16(), serde_json::from_str(&text).unwrap());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            panic!("the gateway never listened");
        })
        .await
        .unwrap()
    }
}

async fn is_asked_in(alpn: &[&str], version: Version) {
    let upstream = Upstream::start(alpn).await;
    let gateway = Gateway::start(&upstream, &upstream.pem).await;
    for _ in 0..3 {
        let (status, answer) = gateway.ask().await;
        assert_eq!(
            (status, &answer["choices"][0]["message"]["content"]),
            (200, &Value::from("behind TLS")),
            "{answer}"
        );
    }
    assert_eq!(*upstream.versions.lock().unwrap(), [version; 3]);
    assert_eq!(upstream.accepts.load(Ordering::SeqCst), 1, "one connection serves them all");
}

#[tokio::test]
async fn an_upstream_behind_tls_is_asked_in_http_1() {
    is_asked_in(&["http/1.1"], Version::HTTP_11).await;
}

#[tokio::test]
async fn an_upstream_behind_tls_that_offers_h2_is_asked_in_h2() {
    is_asked_in(&["h2", "http/1.1"], Version::HTTP_2).await;
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let (upstream, other) = (Upstream::start(&["http/1.1"]).await, Upstream::start(&["http/1.1"]).await);
    let gateway = Gateway::start(&upstream, &other.pem).await;
    let (status, answer) = gateway.ask().await;
    let message = answer["error"]["message"].as_str().unwrap();
    assert_eq!(status, 502, "{answer}");
    assert!(message.starts_with("upstream \"up\": cannot connect: ") && message.contains("ertificate"), "{message}");
    assert!(upstream.versions.lock().unwrap().is_empty());
}
