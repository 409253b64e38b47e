//! Sidestep: a failover load balancer for Azure OpenAI.

pub mod settings;
pub mod app;
pub mod proxy;
pub mod balance;
pub mod openai;
pub mod identity;
pub mod net;
pub mod telemetry;
pub mod admin;
pub mod terminal;
pub mod simulator;
