//! One call over gRPC: a request and an answer, each a message with five bytes before it, on a stream
//! of HTTP/2.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, Request};
use protobuf::Message;
use tokio::net::UnixStream;
use tokio::runtime::Builder;

/// On a processor in software, under load: a pod's machine boots while a call waits.
const PATIENCE: Duration = Duration::from_secs(240);

/// Not compressed; then the message's length in four bytes.
const PREFIX: usize = 5;

/// What a server says instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// gRPC's number for the kind of it.
    pub code: u32,
    /// In words.
    pub message: String,
}

/// Calls a method, `/SERVICE/METHOD`, of who listens on a socket. Nothing but a refusal of the server's is
/// expected to go wrong.
///
/// # Errors
/// The server's refusal.
pub(crate) fn call<A: Message>(
    socket: &Path,
    method: &str,
    request: &impl Message,
) -> Result<A, Refusal> {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, exchange(socket, method, framed(request))).await
    });
    let answer = answer.unwrap_or_else(|_| panic!("{method} takes too long"));
    let bytes = answer.unwrap_or_else(|error| panic!("{method}: {error}"))?;
    Ok(A::parse_from_bytes(&bytes[PREFIX..]).unwrap())
}

fn framed(request: &impl Message) -> Bytes {
    let body = request.write_to_bytes().unwrap();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[0], length.as_slice(), &body].concat().into()
}

async fn exchange(
    socket: &Path,
    method: &str,
    frame: Bytes,
) -> Result<Result<Vec<u8>, Refusal>, h2::Error> {
    let stream = UnixStream::connect(socket).await.map_err(|error| panic!("{error}")).unwrap();
    let (client, connection) = h2::client::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("http://localhost{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let mut client = client.ready().await?;
    let (response, mut body) = client.send_request(request, false)?;
    body.send_data(frame, true)?;
    let (head, mut body) = response.await?.into_parts();
    let bytes = whole(&mut body).await?;
    let trailers = body.trailers().await?;
    connection.abort();
    // A server that has no answer says so in the head.
    let refusal = trailers.as_ref().and_then(refusal).or_else(|| refusal(&head.headers));
    Ok(refusal.map_or(Ok(bytes), Err))
}

async fn whole(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn refusal(headers: &HeaderMap) -> Option<Refusal> {
    let text = |name| headers.get(name)?.to_str().ok();
    let code = text("grpc-status")?.parse().ok().filter(|code| *code != 0)?;
    Some(Refusal { code, message: text("grpc-message").unwrap_or_default().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_other_than_zero_is_a_refusal() {
        let headers = |code: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", code.parse().unwrap());
            headers.insert("grpc-message", "no such pod".parse().unwrap());
            headers
        };
        assert_eq!(refusal(&headers("0")), None);
        assert_eq!(refusal(&HeaderMap::new()), None);
        let expected = Refusal { code: 5, message: "no such pod".to_owned() };
        assert_eq!(refusal(&headers("5")), Some(expected));
    }
}
