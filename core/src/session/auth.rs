//! Who may open a session (Aeron: `Authenticator`).
//!
//! The hook is lent to each call, as memory is: the core keeps no reference to it, and it must not
//! block. What it decides reaches the log as the session's principal, so that followers never ask.

use core::net::SocketAddr;

use crate::limits::PRINCIPAL_MAX;

/// Who the client is, as the authenticator names it: at most `PRINCIPAL_MAX` bytes.
pub type Principal = heapless::Vec<u8, PRINCIPAL_MAX>;

/// What the client is asked, at most 64 bytes; a nonce is the usual case.
pub type Challenge = heapless::Vec<u8, 64>;

/// One attempt to connect, from the connect request to the last challenge response.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Attempt {
    /// A random number that this attempt keeps: a challenge made from it and a key needs no memory.
    /// It is not from a cryptographic generator.
    pub id: u64,
    /// Where the client's ingress comes from. A source address can be forged until a challenge has
    /// been answered.
    #[cfg_attr(feature = "defmt", defmt(Debug2Format))]
    pub from: SocketAddr,
}

/// What an authenticator decides.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Verdict {
    /// The client may open a session as this principal.
    Accept(Principal),
    /// The client must answer this first.
    Challenge(Challenge),
    /// The client may not: it is answered AUTHENTICATION_REJECTED.
    Reject,
}

/// Decides on credentials. Called on the leader only; repeated requests may ask again.
pub trait Authenticator {
    /// A connect request with these credentials (at most `CREDENTIALS_MAX` bytes) has come.
    fn on_connect(&mut self, attempt: Attempt, credentials: &[u8]) -> Verdict;

    /// A challenged client has answered. Another `Challenge` is possible.
    fn on_challenge_response(&mut self, attempt: Attempt, credentials: &[u8]) -> Verdict;

    /// Whether a session of this principal may make the cluster take a snapshot (Aeron:
    /// `AuthorisationService`). Nobody may, unless this says so.
    fn may_administer(&mut self, principal: &[u8]) -> bool {
        let _ = principal;
        false
    }
}

/// Lets everybody in with an empty principal (Aeron: `DefaultAuthenticatorSupplier`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct AllowAll;

impl Authenticator for AllowAll {
    fn on_connect(&mut self, _: Attempt, _: &[u8]) -> Verdict {
        Verdict::Accept(Principal::new())
    }

    fn on_challenge_response(&mut self, _: Attempt, _: &[u8]) -> Verdict {
        Verdict::Accept(Principal::new())
    }
}

/// Lets everybody in, and lets every session administer: for a network of operators only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct AllowAdministration;

impl Authenticator for AllowAdministration {
    fn on_connect(&mut self, _: Attempt, _: &[u8]) -> Verdict {
        Verdict::Accept(Principal::new())
    }

    fn on_challenge_response(&mut self, _: Attempt, _: &[u8]) -> Verdict {
        Verdict::Accept(Principal::new())
    }

    fn may_administer(&mut self, _: &[u8]) -> bool {
        true
    }
}

/// Lets in who knows a secret: an example, and enough for a trusted network. The secret travels in
/// clear text. A client without credentials is challenged once and may answer with the secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SharedSecret<'a> {
    secret: &'a [u8],
    principal: &'a [u8],
}

impl<'a> SharedSecret<'a> {
    /// Clients that know `secret` become `principal`, of which `PRINCIPAL_MAX` bytes are kept.
    pub const fn new(secret: &'a [u8], principal: &'a [u8]) -> Self {
        Self { secret, principal }
    }

    fn accept(&self) -> Verdict {
        let kept = self.principal.len().min(PRINCIPAL_MAX);
        let kept = self.principal.get(..kept).unwrap_or_default();
        Verdict::Accept(Principal::from_slice(kept).unwrap_or_default())
    }
}

impl Authenticator for SharedSecret<'_> {
    fn on_connect(&mut self, _: Attempt, credentials: &[u8]) -> Verdict {
        if credentials.is_empty() {
            Verdict::Challenge(Challenge::from_slice(b"secret?").unwrap_or_default())
        } else if equal_in_constant_time(self.secret, credentials) {
            self.accept()
        } else {
            Verdict::Reject
        }
    }

    fn on_challenge_response(&mut self, _: Attempt, credentials: &[u8]) -> Verdict {
        if equal_in_constant_time(self.secret, credentials) {
            self.accept()
        } else {
            Verdict::Reject
        }
    }
}

/// Takes as long for a wrong byte at the start as for one at the end, so that a client cannot find
/// the secret byte by byte. The length is not hidden.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let difference = a.iter().zip(b).fold(0u8, |sum, (x, y)| sum | (x ^ y));
    core::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTEMPT: Attempt = Attempt {
        id: 7,
        from: SocketAddr::V4(core::net::SocketAddrV4::new(
            core::net::Ipv4Addr::LOCALHOST,
            9,
        )),
    };

    #[test]
    fn a_shared_secret_is_asked_for_once_and_then_right_or_wrong() {
        let mut auth = SharedSecret::new(b"open sesame", b"ali");
        let accepted = Verdict::Accept(Principal::from_slice(b"ali").unwrap());
        assert!(matches!(
            auth.on_connect(ATTEMPT, b""),
            Verdict::Challenge(_)
        ));
        assert_eq!(auth.on_connect(ATTEMPT, b"open sesame"), accepted);
        assert_eq!(auth.on_connect(ATTEMPT, b"open barley"), Verdict::Reject);
        assert_eq!(
            auth.on_challenge_response(ATTEMPT, b"open sesame"),
            accepted
        );
        assert_eq!(
            auth.on_challenge_response(ATTEMPT, b"open sesam"),
            Verdict::Reject
        );
        assert_eq!(auth.on_challenge_response(ATTEMPT, b""), Verdict::Reject);
    }

    #[test]
    fn everybody_is_let_in_by_default() {
        let nobody = Verdict::Accept(Principal::new());
        assert_eq!(AllowAll.on_connect(ATTEMPT, b"whoever"), nobody);
    }
}
