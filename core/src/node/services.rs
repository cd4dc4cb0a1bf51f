//! A turn of the services: what is committed to each of them, and what follows from what they did.

use super::apply::Bench;
use super::dues::{Due, Dues};
use super::handle::memory;
use super::host::{At, Audience, Effects, Host, HostMemory, Taking};
use super::{Halt, Lent, Node};
use crate::broken::Broken;
use crate::log::Log;
use crate::service::Service;
use crate::time::Now;

impl<const N: usize, const S: usize> Node<N, S> {
    /// [`Self::poll_services`] for a node with one service.
    pub fn poll_service<L: Log, V: Service>(
        &mut self,
        now: Now,
        service: &mut V,
        lent: &mut Lent<'_, L>,
    ) -> bool {
        self.poll_services(now, &mut [service], lent)
    }

    /// Hands committed messages to the services, in the order of the log: at most `FRAMES_MAX`
    /// frames, and as many to each service that is behind. `services` are the same in every call,
    /// as many as the configuration says. True if there may be more to do at once.
    pub fn poll_services<L: Log>(
        &mut self,
        now: Now,
        services: &mut [&mut dyn Service],
        lent: &mut Lent<'_, L>,
    ) -> bool {
        if !self.dues.has(Due::SERVICES) {
            debug_assert!(self.is_at_rest());
            for service in services {
                service.on_background_work(now);
            }
            lent.log.release(self.raft.tail.end);
            return false;
        }
        if self.halted.is_some() {
            return false;
        }
        if services.len() != self.hosts.len() {
            self.halt(Halt::Broken(Broken::Services));
            return false;
        }
        if self.is_at_rest() {
            return self.rest(now, services, &mut *lent.log);
        }
        let mut bench = Bench {
            services,
            memory: memory(lent.ingress, lent.egress, lent.reassembly),
            hosts: &mut *lent.services,
        };
        let alone = self.alone(&*lent.log);
        if alone.is_none() {
            self.tell_services(&mut bench);
        }
        for service in &mut *bench.services {
            service.on_background_work(now);
        }
        if let Some(alone) = alone
            && self.execute_alone(now, &alone, &mut bench)
        {
            lent.log.release(self.raft.tail.end);
            return false;
        }
        let half = lent.assembly.len() / if S > 1 { 2 } else { 1 };
        let (own, others) = lent.assembly.split_at_mut(half);
        let before = self.applier.position;
        self.advance(now, &mut bench, &*lent.log, &*lent.replay, own);
        let level = self.applier.level;
        let is_behind = |host: &Host<N>| host.position < level;
        let mut more = false;
        if self.applier.laggard.is_some() || self.hosts.iter().any(is_behind) {
            self.drop_laggard(&bench);
            for at in 0..self.hosts.len() {
                if self.hosts.get(at).is_some_and(is_behind) {
                    more |= self.catch_up(now, at, &mut bench, &*lent.log, &*lent.replay, others);
                }
            }
        }
        self.halt_if(self.clients.broken());
        self.note_services(now, bench.services, lent.services);
        // Nothing that is read here is kept from call to call, and what leaves the window is
        // recalled.
        lent.log.release(self.raft.tail.end);
        let moved = self.applier.position > before;
        more || (moved && self.applier.position < self.raft.commit() && self.applier.ready)
    }

    /// Nothing is to be executed.
    fn rest<L: Log>(&mut self, now: Now, services: &mut [&mut dyn Service], log: &mut L) -> bool {
        for (host, service) in self.hosts.iter_mut().zip(services) {
            service.on_background_work(now);
            host.moved = now.instant;
        }
        log.release(self.raft.tail.end);
        self.dues.done(Due::SERVICES);
        false
    }

    /// What follows from what services have executed: their digests, the first timer of each, and
    /// whether any is level with what is committed. Halts if one says that it is not what it must
    /// be, before its digest is told to anybody.
    pub(super) fn note_services(
        &mut self,
        now: Now,
        services: &[&mut dyn Service],
        memory: &mut [u8],
    ) {
        let (level, count) = (self.applier.level, self.hosts.len());
        let all = self.applier.position >= self.raft.commit();
        let mut is_rested = all && self.applier.laggard.is_none() && !self.applier.has_piled_up();
        for slot in 0..count {
            let (Some(host), Some(service)) = (self.hosts.get_mut(slot), services.get(slot)) else {
                break;
            };
            if service.is_broken() {
                let id = host.id;
                return self.halt(Halt::ServiceBroken(id));
            }
            if host.digest_at != host.position {
                (host.digest, host.digest_at) = (service.digest(), host.position);
            }
            if all && host.position >= level {
                host.moved = now.instant;
            }
            let next = host.next_timer(&HostMemory::of(memory, slot, count));
            let next = next.map(|timer| timer.deadline);
            if next != host.next_due || host.queued() > 0 {
                host.next_due = next;
                self.dues = Dues::ALL;
            }
            is_rested &= host.position == level && host.taking == Taking::No;
        }
        self.dues.plain_to = self.plain_to();
        // It was told its role before it executed anything.
        if is_rested {
            self.dues.done(Due::SERVICES);
        }
        if !self.clients.is_quiet_to_admit() {
            self.dues.add(Due::INGRESS);
        }
    }

    /// Whether all that is committed is executed by all services, and what follows from that is
    /// done.
    fn is_at_rest(&self) -> bool {
        let level = self.applier.level;
        let role = match self.raft.has_turned {
            true => self.raft.role(),
            false => self.role_seen,
        };
        let is_level = self.applier.position >= self.raft.commit();
        let is_between = self.applier.has_piled_up() || self.applier.laggard.is_some();
        is_level && !is_between && self.hosts.iter().all(|host| host.is_at_rest(level, role))
    }

    /// The node closes: tells the services, the last call of all.
    pub fn terminate<L: Log>(&mut self, services: &mut [&mut dyn Service], lent: &mut Lent<'_, L>) {
        let mut bench = Bench {
            services,
            memory: memory(lent.ingress, lent.egress, lent.reassembly),
            hosts: &mut *lent.services,
        };
        self.each_service(&mut bench, |host, at, service, effects| {
            host.terminate(at, service, effects);
        });
    }

    fn tell_services(&mut self, bench: &mut Bench<'_, '_, '_>) {
        let role = self.raft.role();
        if self.hosts.iter().all(|host| host.is_told(role)) {
            return;
        }
        self.each_service(bench, |host, at, service, effects| {
            host.tell(at, service, effects);
        });
    }

    fn each_service(
        &mut self,
        bench: &mut Bench<'_, '_, '_>,
        mut call: impl FnMut(&mut Host<N>, At, &mut dyn Service, &mut Effects<'_, '_, N>),
    ) {
        let count = self.hosts.len();
        for slot in 0..count {
            let (Some(position), Some(service)) = (
                self.hosts.get(slot).map(|host| host.position),
                bench.services.get_mut(slot),
            ) else {
                return;
            };
            let at = self.at(position, position);
            let mut effects = Effects {
                audience: Audience::Clients(&mut self.clients, &mut bench.memory),
                host: HostMemory::of(bench.hosts, slot, count),
            };
            if let Some(host) = self.hosts.get_mut(slot) {
                call(host, at, &mut **service, &mut effects);
            }
        }
    }
}
