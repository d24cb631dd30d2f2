//! Dial: gets a token if one is needed, and opens a WebSocket to one node.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message as Packet, handshake::client::Request};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::frames::Format;
use super::http::{self, Failed};
use super::said::Fault;
use super::told::Why;

/// How long opening a socket may take.
const DIAL_WAIT: Duration = Duration::from_secs(5);
/// The largest frame a node sends.
const FRAME_MAX: usize = 256 * 1024;
/// Read at once, bytes: small, since one process may hold many connections.
const READ_BUFFER: usize = 2 * 1024;
/// Gathered before writing, bytes.
const WRITE_BUFFER: usize = 8 * 1024;

/// An open WebSocket.
pub(super) type Socket = WebSocketStream<TcpStream>;

/// What proves who the user is.
#[derive(Clone)]
pub enum Credential {
    /// A token that somebody else renews.
    Token(String),
    /// A password to log in with.
    Password {
        /// The password.
        password: String,
        /// Whether to register if the user is unknown.
        register: bool,
    },
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(…)",
            Self::Password { .. } => "Password(…)",
        })
    }
}

/// What is needed to open a socket.
#[derive(Debug, Clone)]
pub(super) struct Dial {
    pub(super) url: String,
    pub(super) user: String,
    pub(super) credential: Credential,
    /// The token got earlier, unless a new one is needed.
    pub(super) token: Option<String>,
    pub(super) format: Format,
}

/// Why no socket was opened, and when to try again at the earliest.
#[derive(Debug)]
pub(super) struct NoSocket {
    pub(super) why: Why,
    pub(super) not_before: Duration,
}

impl Dial {
    /// Opens the socket; also returns the token to show on it.
    pub(super) async fn open(self) -> Result<(Socket, String), NoSocket> {
        let host = http::host_of(&self.url).ok_or_else(|| unusable(&self.url))?;
        let token = match (&self.token, &self.credential) {
            (Some(token), _) | (None, Credential::Token(token)) => token.clone(),
            (None, Credential::Password { password, register }) => {
                self.log_in(password, *register).await?
            }
        };
        let socket = match tokio::time::timeout(DIAL_WAIT, self.connect(host)).await {
            Ok(socket) => socket?,
            Err(_) => return Err(unreachable(&self.url, "no answer in time")),
        };
        Ok((socket, token))
    }

    async fn log_in(&self, password: &str, register: bool) -> Result<String, NoSocket> {
        let refused = match http::login(&self.url, &self.user, password).await {
            Ok(pass) => return Ok(pass.token),
            Err(Failed::Refused(fault)) => fault,
            Err(failed) => return Err(self.failed(failed)),
        };
        let unknown = matches!(refused.code.as_str(), "unauthenticated" | "not_found");
        if !(register && unknown) {
            return Err(NoSocket { why: Why::Refused(refused), not_before: Duration::ZERO });
        }
        match http::register(&self.url, &self.user, password).await {
            Ok(pass) => Ok(pass.token),
            // Taken: then it was the password that was wrong.
            Err(Failed::Refused(fault)) if fault.code == "conflict" => {
                Err(NoSocket { why: Why::Refused(refused), not_before: Duration::ZERO })
            }
            Err(Failed::Refused(fault)) => {
                Err(NoSocket { why: Why::Refused(fault), not_before: Duration::ZERO })
            }
            Err(failed) => Err(self.failed(failed)),
        }
    }

    /// The url is said once.
    fn failed(&self, failed: Failed) -> NoSocket {
        match failed {
            Failed::Unreachable { why, .. } => unreachable(&self.url, &why),
            other => unreachable(&self.url, &other.to_string()),
        }
    }

    async fn connect(&self, host: &str) -> Result<Socket, NoSocket> {
        let failed = |e: &dyn std::fmt::Display| unreachable(&self.url, &e.to_string());
        let stream = TcpStream::connect(http::with_port(host)).await.map_err(|e| failed(&e))?;
        stream.set_nodelay(true).map_err(|e| failed(&e))?;
        let request = self.upgrade(host).map_err(|e| failed(&e))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            .max_message_size(Some(FRAME_MAX))
            .max_frame_size(Some(FRAME_MAX));
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(response)) => Err(turned_away(&self.url, &response)),
            Err(e) => Err(failed(&e)),
        }
    }

    fn upgrade(&self, host: &str) -> Result<Request, Error> {
        let mut request = format!("ws://{host}/v1/socket").into_client_request()?;
        let protocol = HeaderValue::from_static(self.format.subprotocol());
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        Ok(request)
    }
}

/// Trying again would not help.
fn unusable(url: &str) -> NoSocket {
    let failed = Failed::Address(url.to_owned());
    let fault = Fault::here("bad_request", &failed.to_string(), false);
    NoSocket { why: Why::Refused(fault), not_before: Duration::ZERO }
}

fn unreachable(url: &str, why: &str) -> NoSocket {
    NoSocket { why: Why::Unreachable(format!("{url}: {why}")), not_before: Duration::ZERO }
}

/// A node over its login budget says when to come back.
fn turned_away(url: &str, response: &Response<Option<Vec<u8>>>) -> NoSocket {
    let seconds = response.headers().get(header::RETRY_AFTER);
    let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
    let why = format!("answered {}", response.status());
    NoSocket { not_before: Duration::from_secs(seconds), ..unreachable(url, &why) }
}

/// A frame as it goes over a socket; JSON is always text.
pub(super) fn packet(frame: Vec<u8>, format: Format) -> Packet {
    let text = match format {
        Format::Json => String::from_utf8(frame).map_err(std::string::FromUtf8Error::into_bytes),
        Format::Msgpack => Err(frame),
    };
    match text {
        Ok(text) => Packet::Text(text.into()),
        Err(bytes) => Packet::Binary(bytes.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_is_reached_is_said_once() {
        let url = "http://127.0.0.1:1".to_owned();
        let dial = Dial {
            url: url.clone(),
            user: "ann".to_owned(),
            credential: Credential::Token(String::new()),
            token: None,
            format: Format::Json,
        };
        let why = dial.failed(Failed::Unreachable { url, why: "refused".to_owned() }).why;
        assert_eq!(why.to_string(), "http://127.0.0.1:1: refused");
    }
}
