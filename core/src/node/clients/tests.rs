//! Scenarios: one node's clients room, an in-memory log, and scripted clients made of the same
//! streams that real ones are.

mod client;
mod closing;
mod direct;
mod flow;
mod hostile;
mod opening;
mod random;
mod terms;
mod world;
