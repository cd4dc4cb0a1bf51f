//! The services of one member: on the node's thread, or each on one of its own.

use coracle_core::limits::SERVICES_MAX;
use coracle_core::service::Service;
use coracle_core::units::{Position, ServiceId};

use crate::apart::{Away, OnThread};

/// What a member runs: any `Service`, or several as [`Services`].
pub trait Hosted {
    /// How many there are.
    fn count(&self) -> usize;

    /// All of them, in their order; of too many, with which no member starts, the first ones.
    fn lend(&mut self) -> heapless::Vec<&mut dyn Service, SERVICES_MAX>;

    /// Those on threads of their own.
    fn away(&mut self) -> impl Iterator<Item = (ServiceId, &mut (dyn Away + Send + 'static))>;

    /// Whether one on the node's thread takes nothing, up to `at` as they all are: it is asked
    /// again soon.
    fn is_stalled(&self, at: Position) -> bool;
}

impl<S: Service> Hosted for S {
    fn count(&self) -> usize {
        1
    }

    fn lend(&mut self) -> heapless::Vec<&mut dyn Service, SERVICES_MAX> {
        [self as &mut dyn Service].into_iter().collect()
    }

    fn away(&mut self) -> impl Iterator<Item = (ServiceId, &mut (dyn Away + Send + 'static))> {
        std::iter::empty()
    }

    fn is_stalled(&self, at: Position) -> bool {
        !self.ready(at)
    }
}

/// Up to `SERVICES_MAX` services on one log, numbered from 0 in the order in which they are added:
/// the same on every member, wherever each one runs.
///
/// A service on the node's thread costs no hand-over, and must not block: while a callback runs,
/// the member does nothing else. One on a thread of its own may take as long as it likes, get stuck
/// or panic: the member and its other services go on, `coracle status` shows how far it is behind,
/// and a leader hands over.
///
/// ```no_run
/// use coracle_core::service::echo::Echo;
/// use coracle_std::{config::Settings, node::{NodeBuilder, Services}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let services = Services::new().on_node(Echo::default()).on_thread(Echo::default());
/// NodeBuilder::new(Settings::load("node.toml".as_ref())?).run(services)?;
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct Services {
    slots: Vec<Slot>,
}

enum Slot {
    Here(Box<dyn Service + Send>),
    Away(Box<dyn Away + Send>),
}

impl Slot {
    fn service(&mut self) -> &mut dyn Service {
        match self {
            Self::Here(service) => &mut **service,
            Self::Away(away) => away.as_service(),
        }
    }

    fn away(&mut self) -> Option<&mut (dyn Away + Send + 'static)> {
        match self {
            Self::Here(_) => None,
            Self::Away(away) => Some(&mut **away),
        }
    }
}

impl Services {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one that runs on the node's thread.
    #[must_use]
    pub fn on_node(mut self, service: impl Service + Send + 'static) -> Self {
        self.slots.push(Slot::Here(Box::new(service)));
        self
    }

    /// Adds one that runs on a thread of its own.
    #[must_use]
    pub fn on_thread(mut self, service: impl Service + Send + 'static) -> Self {
        self.slots
            .push(Slot::Away(Box::new(OnThread::new(service))));
        self
    }
}

impl Hosted for Services {
    fn count(&self) -> usize {
        self.slots.len()
    }

    fn lend(&mut self) -> heapless::Vec<&mut dyn Service, SERVICES_MAX> {
        let slots = self.slots.iter_mut().take(SERVICES_MAX);
        slots.map(Slot::service).collect()
    }

    fn away(&mut self) -> impl Iterator<Item = (ServiceId, &mut (dyn Away + Send + 'static))> {
        let ids = (0..=u8::MAX).map_while(ServiceId::new);
        let slots = ids.zip(&mut self.slots);
        slots.filter_map(|(id, slot)| Some((id, slot.away()?)))
    }

    fn is_stalled(&self, at: Position) -> bool {
        let stalled = |slot: &Slot| matches!(slot, Slot::Here(s) if !s.ready(at));
        self.slots.iter().any(stalled)
    }
}
