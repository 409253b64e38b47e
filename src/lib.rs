//! Sidestep: a failover load balancer for Azure OpenAI.

pub mod admin;
pub mod app;
pub mod balance;
pub mod identity;
pub mod net;
pub mod openai;
pub mod proxy;
pub mod settings;
pub mod simulator;
pub mod telemetry;
pub mod terminal;
