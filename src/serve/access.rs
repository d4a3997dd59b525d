//! Who may call: the key, the origin, the host name, and how often.

use super::App;
use super::error::ApiError;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Addresses whose rate is remembered; the longest silent is forgotten first.
const MOST_ADDRESSES: usize = 4096;
/// Whether the server lives.
const HEALTH: &str = "/healthz";
/// A WebSocket in a browser cannot send headers: there the key is a subprotocol with one of these before it, the second
/// being what OpenAI's clients use.
const KEY_PROTOCOLS: [&str; 2] = ["aurist.key.", "openai-insecure-api-key."];

/// A connection's other end.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) ip: IpAddr,
    pub(super) patient: Patient,
}

/// Set once a connection's protocol has a limit of its own on how long its peer may not read.
#[derive(Debug, Clone, Default)]
pub(super) struct Patient(Arc<AtomicBool>);

impl Patient {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Requests a minute from one address, as a bucket that refills steadily.
pub(super) struct Rates {
    most: u32,
    buckets: Mutex<HashMap<IpAddr, (f64, Instant)>>,
}

impl Rates {
    pub(super) fn new(most: u32) -> Self {
        Self {
            most,
            buckets: Mutex::default(),
        }
    }

    /// Takes one request from an address's bucket, or tells after how many seconds there will be one.
    fn take(&self, peer: IpAddr, now: Instant) -> Result<(), u64> {
        if self.most == 0 {
            return Ok(());
        }
        let most = f64::from(self.most);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MOST_ADDRESSES && !buckets.contains_key(&peer) {
            let oldest = buckets.iter().min_by_key(|(_, (_, at))| *at).map(|(peer, _)| *peer);
            if let Some(oldest) = oldest {
                buckets.remove(&oldest);
            }
        }
        let (left, at) = buckets.entry(peer).or_insert((most, now));
        *left = (*left + now.duration_since(*at).as_secs_f64() * most / 60.0).min(most);
        *at = now;
        if *left < 1.0 {
            return Err(((1.0 - *left) * 60.0 / most).ceil() as u64);
        }
        *left -= 1.0;
        Ok(())
    }
}

/// Lets a request through, or answers it.
pub(super) async fn check(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed = match &origin {
        Some(origin) => is_allowed(&app, request.headers(), origin),
        None => true,
    };
    let refused = if !allowed {
        let message = "Pages of other origins may not call this server; allow one with --allow-origin";
        Some(ApiError::forbidden(message))
    } else if !is_own_name(&app, request.headers()) {
        let message = "This server answers to localhost only; give it a key (--api-key) to answer to other names";
        Some(ApiError::forbidden(message))
    } else if request.method() == Method::OPTIONS {
        None
    } else if request.uri().path() == HEALTH {
        // Whoever watches the server must not be kept out by its neighbours.
        None
    } else if let Err(wait) = app.rates.take(peer.ip, Instant::now()) {
        // Before the key is looked at: it could be guessed at.
        Some(ApiError::busy("Too many requests from this address", wait))
    } else if is_open(request.uri().path()) || has_key(&app, request.headers()) {
        None
    } else {
        Some(ApiError::unauthorised())
    };
    let mut response = match refused {
        Some(error) => {
            app.metrics.refused(error.status);
            error.into_response()
        }
        None if request.method() == Method::OPTIONS && origin.is_some() => preflight(request.headers()),
        None => next.run(request).await,
    };
    if let Some(origin) = origin.filter(|_| allowed) {
        response
            .headers_mut()
            .insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        response
            .headers_mut()
            .insert(header::VARY, HeaderValue::from_static("origin"));
        response.headers_mut().insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("retry-after"),
        );
    }
    response
}

/// What needs no key: whether the server lives, and the page, which asks for the key itself.
fn is_open(path: &str) -> bool {
    matches!(path, "/" | HEALTH)
}

/// To a page of an allowed origin: OpenAI's client sends headers of its own.
fn preflight(asked: &HeaderMap) -> Response {
    let headers = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let headers = headers.unwrap_or(HeaderValue::from_static("authorization, content-type"));
    let headers = [
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET, POST"),
        ),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, headers),
        (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600")),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

fn is_allowed(app: &App, headers: &HeaderMap, origin: &HeaderValue) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    let listed = |allowed: &String| allowed == "*" || allowed == origin;
    if app.config.allowed_origins.iter().any(listed) {
        return true;
    }
    // The server's own page.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let own = origin.strip_prefix("http://").or(origin.strip_prefix("https://"));
    own.is_some() && own == host
}

/// Without a key, a page elsewhere could reach this server under a name of its own that leads here (DNS rebinding):
/// only this machine's names, and addresses, are answered.
fn is_own_name(app: &App, headers: &HeaderMap) -> bool {
    if app.config.api_key.is_some() || !app.config.address.ip().is_loopback() {
        return true;
    }
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else {
        return true;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn has_key(app: &App, headers: &HeaderMap) -> bool {
    let Some(key) = &app.config.api_key else { return true };
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    let protocols = text(header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
    let keys = protocols.split(',').flat_map(|name| {
        let key = move |before: &&str| name.trim().strip_prefix(*before);
        KEY_PROTOCOLS.iter().filter_map(key)
    });
    // Hashes compare in constant time, whatever the lengths.
    let right = blake3::hash(key.as_bytes());
    bearer
        .into_iter()
        .chain(keys)
        .any(|given| blake3::hash(given.as_bytes()) == right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_rate_refills_and_addresses_do_not_share_it() {
        let rates = Rates::new(2);
        let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let now = Instant::now();
        assert_eq!([rates.take(a, now), rates.take(a, now)], [Ok(()), Ok(())]);
        assert_eq!(rates.take(a, now), Err(30));
        assert_eq!(rates.take(b, now), Ok(()));
        assert_eq!(rates.take(a, now + Duration::from_secs(31)), Ok(()));
        assert_eq!(Rates::new(0).take(a, now), Ok(()));
    }

    #[test]
    fn remembered_addresses_are_bounded() {
        let rates = Rates::new(1);
        let now = Instant::now();
        for n in 0..10_000_u32 {
            assert_eq!(rates.take(IpAddr::V4(n.into()), now), Ok(()));
        }
        assert!(rates.buckets.lock().unwrap().len() <= MOST_ADDRESSES);
    }
}
