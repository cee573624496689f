//! Enough of TLS records (RFC 8446 §4.1, §5.1) to tell from outside that TLS 1.3 was spoken.

const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const SUPPORTED_VERSIONS: u16 = 43;

/// Whether the stream opens with a `ClientHello`.
pub(super) fn is_client_hello(stream: &[u8]) -> bool {
    first_handshake(stream).is_some_and(|message| message.first() == Some(&CLIENT_HELLO))
}

/// Whether the stream opens with a `ServerHello` that selects TLS 1.3.
pub(super) fn chose_tls13(stream: &[u8]) -> bool {
    selected_version(stream) == Some(0x0304)
}

/// Whether the stream has an encrypted record.
pub(super) fn has_encrypted(stream: &[u8]) -> bool {
    records(stream).any(|(kind, _)| kind == APPLICATION_DATA)
}

fn selected_version(stream: &[u8]) -> Option<u16> {
    let message = first_handshake(stream)?;
    if *message.first()? != SERVER_HELLO {
        return None;
    }
    // Type and length (4), legacy version (2), random (32), session id, suite (2), compression (1).
    let after_session = 4 + 2 + 32 + 1 + usize::from(*message.get(38)?);
    let mut extensions = message.get(after_session + 2 + 1 + 2..)?;
    while let [a, b, c, d, rest @ ..] = extensions {
        let (kind, length) = (
            u16::from_be_bytes([*a, *b]),
            usize::from(u16::from_be_bytes([*c, *d])),
        );
        let value = rest.get(..length)?;
        if kind == SUPPORTED_VERSIONS {
            return Some(u16::from_be_bytes(value.try_into().ok()?));
        }
        extensions = &rest[length..];
    }
    None
}

fn first_handshake(stream: &[u8]) -> Option<&[u8]> {
    records(stream)
        .next()
        .filter(|(kind, _)| *kind == HANDSHAKE)
        .map(|(_, body)| body)
}

fn records(mut stream: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let [kind, 3, _, high, low, rest @ ..] = stream else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let body = rest.get(..length)?;
        stream = &rest[length..];
        Some((*kind, body))
    })
}
