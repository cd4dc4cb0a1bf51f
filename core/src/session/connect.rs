//! The checks of a connect request that need neither a stream nor the network.

use crate::wire::cluster::is_compatible;

/// Why a connect request is answered with an error.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Refusal {
    /// The client speaks another major version of the protocol.
    Version,
    /// As many sessions as are allowed are open or being opened.
    SessionLimit,
    /// The authenticator said no.
    Authentication,
    /// The credentials are longer than `CREDENTIALS_MAX`.
    CredentialsTooLong,
}

impl Refusal {
    /// What the client is told.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Version => "invalid client version: this cluster speaks protocol 0.3.0",
            Self::SessionLimit => "concurrent session limit: close a session or try later",
            Self::Authentication => "authentication rejected",
            Self::CredentialsTooLong => "credentials are longer than this cluster accepts",
        }
    }
}

/// Decides on a connect request before its credentials are looked at. `version` is the client's as
/// it stands on the wire, `open` counts the sessions that are open or being opened, `limit` is how
/// many may be.
///
/// # Errors
/// [`Refusal::Version`], else [`Refusal::SessionLimit`].
pub const fn check(version: i32, open: usize, limit: usize) -> Result<(), Refusal> {
    if !is_compatible(version) {
        return Err(Refusal::Version);
    }
    if open >= limit {
        return Err(Refusal::SessionLimit);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::cluster::{PROTOCOL_VERSION, semantic_version};

    #[test]
    fn only_the_major_version_and_the_limit_decide() {
        assert_eq!(check(PROTOCOL_VERSION, 0, 1), Ok(()));
        assert_eq!(check(semantic_version(0, 2, 9), 0, 1), Ok(()));
        assert_eq!(
            check(semantic_version(1, 3, 0), 0, 1),
            Err(Refusal::Version)
        );
        assert_eq!(check(-1, 0, 1), Err(Refusal::Version));
        assert_eq!(check(PROTOCOL_VERSION, 1, 1), Err(Refusal::SessionLimit));
    }
}
