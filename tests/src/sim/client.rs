//! stub
use super::check::Violation;
use super::clock::Nanos;
use super::net::Datagram;
use super::plan::Plan;
use super::rng::Rng;
use super::world::World;

#[derive(Debug)]
pub struct Client {
    pub acknowledged: u64,
    pub back_pressured: u64,
    pub silent_until: Nanos,
}
impl Client {
    pub fn new(_id: u8, _plan: &Plan, _rng: &mut Rng) -> Self {
        Self {
            acknowledged: 0,
            back_pressured: 0,
            silent_until: 0,
        }
    }
    pub fn vanish(&mut self) {}
    pub fn stop(&mut self) {}
    pub fn line(&self) -> String {
        String::new()
    }
}
impl World {
    pub fn deliver_to_client(&mut self, _client: usize, _d: Datagram) {}
    pub fn client_event(&mut self, _c: usize) -> Result<bool, Violation> {
        Ok(true)
    }
}
