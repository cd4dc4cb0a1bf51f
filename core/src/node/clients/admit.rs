use super::*;
impl<const N: usize> Clients<N> {
    pub fn poll_admit<L: crate::log::Log, A: crate::session::Authenticator>(
        &mut self,
        _now: crate::time::Instant,
        _a: &Admission<'_>,
        _log: &mut L,
        _m: &mut Memory<'_>,
        _auth: &mut A,
    ) -> bool {
        false
    }
}
