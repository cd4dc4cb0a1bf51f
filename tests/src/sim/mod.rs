//! A whole cluster with its clients in one process, from one seed.
//!
//! ```text
//! plan      what a seed means            run      faults, then none, then a verdict
//! world     what happens next            troubles what goes wrong
//! member    a machine and its process    turn, storage, start, snapshots, installs, repairs
//! board     a superloop and its device   board_start, board_turn, board_service
//! client    a client and its work        services, away, mind: what members run
//! net disk clock   the surroundings      spy ghost check check_sent model...  the observer
//! ```
//!
//! Determinism is the rule: no wall clock, no hash order, no thread. The same seed and the same
//! code give the same run, to the step.

pub mod away;
pub mod board;
mod board_service;
mod board_start;
mod board_turn;
pub mod check;
pub mod check_admitted;
mod check_board;
mod check_sent;
pub mod client;
pub mod clock;
pub mod disk;
pub mod divergence;
pub mod elections;
pub mod ghost;
pub mod installs;
pub mod member;
pub mod mind;
pub mod model;
pub mod model_service;
pub mod net;
pub mod plan;
pub mod repairs;
pub mod rng;
pub mod run;
pub mod services;
pub mod shown;
pub mod snapshots;
pub mod spy;
pub mod start;
pub mod stats;
pub mod storage;
pub mod tell;
pub mod trace;
pub mod troubles;
pub mod turn;
pub mod unwell;
pub mod work;
pub mod world;

pub use run::{Failure, Options, Outcome, run};
