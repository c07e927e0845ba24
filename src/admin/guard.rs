//! Who may ask, and how.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::answer::Failure;

/// Refuses every method that could change something.
pub(super) async fn read_only(request: Request, next: Next) -> Response {
    let mut response = if matches!(*request.method(), Method::GET | Method::HEAD) {
        next.run(request).await
    } else {
        let message = format!("{} is not served: Legation's pages are read-only", request.method());
        let mut response =
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message).into_response();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        response
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Refuses what a page in a browser sends: an order is given at a command line.
pub(super) async fn no_pages(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        let message = "orders are not taken from pages in a browser; use `legation release`";
        return Failure::new(StatusCode::FORBIDDEN, "ORIGIN_NOT_ALLOWED", message).into_response();
    }
    next.run(request).await
}

/// Refuses requests under a name that isn't loopback's: a page elsewhere whose name was made to point here
/// (DNS rebinding) would otherwise read everything through its visitor's browser.
pub(super) async fn loopback_only(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(Authority::as_str);
    let hosts = request.headers().get_all(header::HOST).iter().count();
    // HTTP/2 has an authority in the place of the header.
    let named = hosts == 1 || (hosts == 0 && authority.is_some());
    let wanted = named && host.is_none_or(is_loopback) && authority.is_none_or(is_loopback);
    if wanted {
        return next.run(request).await;
    }
    let message = format!(
        "ask by a loopback name, such as localhost, not by `{}`",
        host.or(authority).unwrap_or_default()
    );
    Failure::new(StatusCode::FORBIDDEN, "HOST_NOT_ALLOWED", message).into_response()
}

/// Whether `host`, perhaps with a port, is `localhost` or a loopback address.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    !host.contains('@')
        && (name.eq_ignore_ascii_case("localhost")
            || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_by_any_of_its_names() {
        for host in ["localhost", "LOCALHOST:19000", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:19000"] {
            assert!(is_loopback(host), "{host}");
        }
        let wrong = ["", "example.com", "localhost.example.com", "127.0.0.1.example.com", "10.0.0.1:19000"];
        for host in wrong.into_iter().chain(["localhost@example.com", "x@localhost", "[::2]", "0.0.0.0", " "])
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
