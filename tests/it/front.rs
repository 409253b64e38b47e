//! A balancer in this process with doors for callers and operators, and what a settings file says of resources.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Deref;

use serde_json::Value;
use sidestep::simulator::{
    AcceptedKey, QuotaSettings, ResourceHandle, ResourceSettings, Simulator, SimulatorSettings,
};

use super::fixture::{Scene, Stage, key_of};

/// A running balancer, asked by bytes.
pub(crate) struct Front(Stage);

impl Front {
    /// In front of `east`, with these lines in `[server]` and these tables besides.
    pub(crate) fn with(server: &str, tables: &str) -> Self {
        Self::of(Scene::of([("east", 1)]).server(server).toml(tables))
    }

    /// In front of `east`.
    pub(crate) fn plain() -> Self {
        Self::with("", "")
    }

    pub(crate) fn of(scene: Scene) -> Self {
        Self(scene.server("admin_listen = \"127.0.0.1:0\"").start())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.balancer.address()
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.balancer.admin_address().unwrap()
    }

    /// The status document.
    pub(crate) fn status(&self) -> Value {
        serde_json::to_value(self.balancer.status()).unwrap()
    }
}

impl Deref for Front {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.0
    }
}

/// Resources of these names, each with its own key and more quota than any test uses.
pub(crate) fn resources(names: &[&str]) -> Simulator {
    let resource = |name: &&str| ResourceSettings {
        api_keys: vec![AcceptedKey::from(key_of(name).as_str())],
        quota: QuotaSettings::unlimited(),
        ..ResourceSettings::named(name)
    };
    let resources = names.iter().map(resource).collect();
    Simulator::start(SimulatorSettings { seed: 1, resources }).unwrap()
}

/// The `[[backends]]` for them, of falling priority.
pub(crate) fn backends<'a>(resources: impl IntoIterator<Item = &'a ResourceHandle>) -> String {
    let mut text = String::new();
    for (place, resource) in resources.into_iter().enumerate() {
        let (name, url, key, priority) =
            (resource.name(), resource.url(), key_of(resource.name()), place + 1);
        writeln!(
            text,
            "[[backends]]\nname = \"{name}\"\nurl = \"{url}\"\napi_key = \"{key}\"\npriority = {priority}"
        )
        .unwrap();
    }
    text
}
