//! The `OpenMetrics` document.

use std::collections::BTreeMap;
use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::histogram::Histogram;
use super::names::{NameId, label};
use super::{AllNames, Flow, LaneGauge, Lost, PoolGauges, RequestCounts, SETS, STATES, Sums, TokenCounts};

/// The media type of the document.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes the document.
pub(super) fn render(sums: Sums, names: &AllNames, pool: PoolGauges, lost: Lost) -> String {
    let scrape = Scrape {
        deployments: names.deployments.labels(),
        callers: names.callers.labels(),
        backends: names.backends.labels(),
        sums,
        pool,
        lost,
    };
    let mut registry = Registry::with_prefix("sidestep");
    registry.register_collector(Box::new(scrape));
    let mut document = String::new();
    match text::encode(&mut document, &registry) {
        Ok(()) => document,
        // Writing to a string does not fail.
        Err(Error) => String::from("# EOF\n"),
    }
}

/// All that one scrape tells.
#[derive(Debug)]
struct Scrape {
    deployments: Vec<String>,
    callers: Vec<String>,
    backends: Vec<String>,
    sums: Sums,
    pool: PoolGauges,
    lost: Lost,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.requests(&mut encoder)?;
        self.attempts(&mut encoder)?;
        self.flow(&mut encoder)?;
        self.gauges(&mut encoder)?;
        for (name, help, histogram) in [
            (
                "time_to_first_byte",
                "From a request's head to the first byte of its answer",
                &self.sums.first_byte,
            ),
            ("request_duration", "From a request's head to the end of its answer", &self.sums.whole),
            ("added_latency", "The part of it that was ours", &self.sums.ours),
        ] {
            observe(&mut encoder, name, help, histogram)?;
        }
        let Lost { log_lines, spans, connections } = self.lost;
        for (name, help, lost) in [
            ("log_lines_dropped", "Log lines dropped because the output was not read", log_lines),
            ("spans_dropped", "Spans of traces dropped because the receiver did not take them", spans),
            ("connections_refused", "Callers' connections beyond the bound", connections),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_counter::<NoLabelSet, u64, f64>(&lost, None)?;
        }
        Ok(())
    }
}

fn text_of(labels: &[String], number: NameId) -> &str {
    labels.get(usize::from(number)).map_or("other", String::as_str)
}

/// None where nothing was used: embeddings have no cache, a refusal has nothing.
fn kinds(tokens: TokenCounts) -> impl Iterator<Item = (&'static str, u64)> {
    let TokenCounts { prompt, cached, completion } = tokens;
    let all = [("prompt", prompt), ("cached", cached), ("completion", completion)];
    all.into_iter().filter(move |_| prompt > 0 || completion > 0)
}

fn count<const N: usize>(
    metric: &mut MetricEncoder<'_>,
    labels: [(&str, &str); N],
    value: u64,
) -> Result<(), Error> {
    metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&value, None)
}

fn observe(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    histogram: &Histogram,
) -> Result<(), Error> {
    let mut metric = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    let (sum, count, buckets) = (histogram.sum_seconds(), histogram.count(), histogram.buckets());
    metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

impl Scrape {
    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let help = "Requests of callers, by the answer they got";
        let mut metric = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
        for ((deployment, caller), counts) in &self.sums.requests {
            for (status, number) in &counts.statuses {
                let status = if *status == 0 { "none".to_owned() } else { status.to_string() };
                let labels = [
                    ("deployment", text_of(&self.deployments, *deployment)),
                    ("caller", text_of(&self.callers, *caller)),
                    ("status", &status),
                ];
                count(&mut metric, labels, *number)?;
            }
        }
        for (name, help, number) in [
            (
                "failed",
                "Of the requests, answered 429 or 5xx, or broken off; callers' own limits apart",
                (|counts| counts.failed) as fn(&RequestCounts) -> u64,
            ),
            ("limited", "Of the requests, refused for the caller's own limits", |counts| counts.limited),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for ((deployment, caller), counts) in &self.sums.requests {
                let labels = [
                    ("deployment", text_of(&self.deployments, *deployment)),
                    ("caller", text_of(&self.callers, *caller)),
                ];
                count(&mut metric, labels, number(counts))?;
            }
        }
        let help = "Tokens used, read from answers or estimated; cached ones are part of the prompt";
        let mut metric = encoder.encode_descriptor("tokens", help, None, MetricType::Counter)?;
        for ((deployment, caller), counts) in &self.sums.requests {
            for (kind, number) in kinds(counts.tokens) {
                let labels = [
                    ("deployment", text_of(&self.deployments, *deployment)),
                    ("caller", text_of(&self.callers, *caller)),
                    ("kind", kind),
                ];
                count(&mut metric, labels, number)?;
            }
        }
        let help =
            "The same by where they were used; the deployment by its name there, as in lane_quota_tokens";
        let mut metric = encoder.encode_descriptor("lane_tokens", help, None, MetricType::Counter)?;
        for ((backend, deployment), tokens) in &self.sums.lanes {
            for (kind, number) in kinds(*tokens) {
                let labels = [
                    ("backend", text_of(&self.backends, *backend)),
                    ("deployment", text_of(&self.deployments, *deployment)),
                    ("kind", kind),
                ];
                count(&mut metric, labels, number)?;
            }
        }
        Ok(())
    }

    fn attempts(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let help = "Attempts at backends, by what came of them";
        let mut metric = encoder.encode_descriptor("attempts", help, None, MetricType::Counter)?;
        for ((backend, deployment), verdicts) in &self.sums.attempts {
            for (verdict, number) in verdicts {
                let labels = [
                    ("backend", text_of(&self.backends, *backend)),
                    ("deployment", text_of(&self.deployments, *deployment)),
                    ("verdict", verdict),
                ];
                count(&mut metric, labels, *number)?;
            }
        }
        Ok(())
    }

    fn flow(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        // From the first request on, for what appears at its first event has no increase that anybody sees.
        let all: BTreeMap<NameId, Flow> = self
            .sums
            .requests
            .keys()
            .map(|(deployment, _)| (*deployment, Flow::default()))
            .chain(self.sums.flow.iter().map(|(deployment, flow)| (*deployment, *flow)))
            .collect();
        let help = "Attempts that went to another backend than the one before";
        let mut metric = encoder.encode_descriptor("failovers", help, None, MetricType::Counter)?;
        for (deployment, flow) in &all {
            count(&mut metric, [("deployment", text_of(&self.deployments, *deployment))], flow.failovers)?;
        }
        let help = "Attempts that came to nothing, of requests that were answered well in the end";
        let mut metric = encoder.encode_descriptor("absorbed", help, None, MetricType::Counter)?;
        for (deployment, flow) in &all {
            count(&mut metric, [("deployment", text_of(&self.deployments, *deployment))], flow.absorbed)?;
        }
        let help = "Requests that no lane admitted";
        let mut metric = encoder.encode_descriptor("exhausted", help, None, MetricType::Counter)?;
        for (deployment, flow) in &all {
            count(&mut metric, [("deployment", text_of(&self.deployments, *deployment))], flow.exhausted)?;
        }
        let help = "Requests that waited in line for room";
        let mut metric = encoder.encode_descriptor("held", help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, u64, f64>(&self.sums.totals.held, None)?;
        Ok(())
    }

    fn gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let lanes = self.lanes();
        let mut metric = encoder.encode_descriptor(
            "lane_state",
            "1 for the state a lane is in",
            None,
            MetricType::Gauge,
        )?;
        for (backend, deployment, lane) in &lanes {
            for state in STATES {
                let labels = [("backend", &**backend), ("deployment", deployment), ("state", state)];
                metric.encode_family(&labels)?.encode_gauge(&u32::from(state == lane.state))?;
            }
        }
        let help = "Time until a throttled lane admits again";
        let unit = Some(&Unit::Seconds);
        let mut metric = encoder.encode_descriptor("cooldown", help, unit, MetricType::Gauge)?;
        for (backend, deployment, lane) in &lanes {
            let left = lane.remaining.filter(|_| lane.state == "cooling").unwrap_or_default();
            let labels = [("backend", &**backend), ("deployment", deployment)];
            metric.encode_family(&labels)?.encode_gauge(&left.as_secs_f64())?;
        }
        let help =
            "Tokens a minute that a lane may use, and what is left of them, as far as its answers have told";
        let mut metric = encoder.encode_descriptor("lane_quota_tokens", help, None, MetricType::Gauge)?;
        for (backend, deployment, lane) in &lanes {
            let (limit, remaining) = (lane.quota.limit_tokens, lane.quota.remaining_tokens);
            for (kind, tokens) in [("limit", limit), ("remaining", remaining)] {
                let Some(tokens) = tokens else { continue };
                let labels = [("backend", &**backend), ("deployment", deployment), ("kind", kind)];
                metric.encode_family(&labels)?.encode_gauge(&tokens)?;
            }
        }
        let help = "The same by the callers' names of deployments, over all backends in use";
        let mut metric = encoder.encode_descriptor("quota_tokens", help, None, MetricType::Gauge)?;
        for deployment in self.pool.deployments.iter().take(SETS) {
            let name = label(&deployment.name);
            for (kind, tokens) in
                [("limit", deployment.limit_tokens), ("remaining", deployment.remaining_tokens)]
            {
                metric.encode_family(&[("deployment", &*name), ("kind", kind)])?.encode_gauge(&tokens)?;
            }
        }
        let help = "Attempts under way";
        let mut metric = encoder.encode_descriptor("in_flight", help, None, MetricType::Gauge)?;
        for backend in &self.pool.backends {
            let name = label(&backend.name);
            metric.encode_family(&[("backend", &*name)])?.encode_gauge(&backend.in_flight)?;
        }
        let help = "1 while a key or a valid token for the backend is there";
        let mut metric = encoder.encode_descriptor("credential_ready", help, None, MetricType::Gauge)?;
        for backend in &self.pool.backends {
            let (name, ready) = (label(&backend.name), u32::from(backend.credential_ready));
            metric.encode_family(&[("backend", &*name)])?.encode_gauge(&ready)?;
        }
        Ok(())
    }

    /// The lanes that get series, each with its labels.
    fn lanes(&self) -> Vec<(String, String, &LaneGauge)> {
        let all = self.pool.backends.iter().flat_map(|backend| {
            let name = label(&backend.name);
            backend.lanes.iter().map(move |lane| (name.clone(), label(&lane.deployment), lane))
        });
        all.filter(|(_, _, lane)| lane.known).take(SETS).collect()
    }
}
