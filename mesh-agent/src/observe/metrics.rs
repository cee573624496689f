//! The registry of metrics. Modules register what they move (the metric is declared
//! beside the code that moves it); the admin server encodes it at `/metrics`.

use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry as Inner};

/// Every metric of the agent. Shared; registering is for start-up.
///
/// Metrics that name workloads or their identities are apart, each with a sum that names
/// nobody where one is of use: [`Registry::encode`] has the former, and
/// [`Registry::encode_nameless`], for callers that may not see identities, the latter.
#[derive(Debug)]
pub struct Registry {
    common: RwLock<Inner>,
    named: RwLock<Inner>,
    nameless: RwLock<Inner>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// A registry that holds `isthmus_build_info` alone.
    pub fn new() -> Self {
        let mut inner = Inner::default();
        inner.register(
            "isthmus_build",
            "Version of the agent that is running",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self {
            common: RwLock::new(inner),
            named: RwLock::default(),
            nameless: RwLock::default(),
        }
    }

    /// Adds a metric. Counters are named without `_total`, which encoding appends.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        write(&self.common).register(name, help, metric);
    }

    /// Adds a collector, which writes whole families at each scrape.
    pub fn register_collector(&self, collector: impl Collector) {
        write(&self.common).register_collector(Box::new(collector));
    }

    /// Adds a collector of metrics that name workloads, and one of their sums.
    pub fn register_named(&self, named: impl Collector, nameless: impl Collector) {
        write(&self.named).register_collector(Box::new(named));
        write(&self.nameless).register_collector(Box::new(nameless));
    }

    /// Adds a gauge read at each scrape whose labels name workloads. It has no sum.
    pub fn named_gauge_at_scrape<F>(&self, name: &'static str, help: &'static str, read: F)
    where
        F: Fn() -> Vec<Sample<f64>> + Send + Sync + 'static,
    {
        write(&self.named).register_collector(Box::new(AtScrape {
            name,
            help,
            kind: MetricType::Gauge,
            read,
        }));
    }

    /// Adds a counter whose samples live elsewhere (an eBPF map, say) and are read at each
    /// scrape. `read` must be quick and must not register metrics. `name` is without `_total`.
    pub fn counter_at_scrape<F>(&self, name: &'static str, help: &'static str, read: F)
    where
        F: Fn() -> Vec<Sample<u64>> + Send + Sync + 'static,
    {
        self.register_collector(AtScrape {
            name,
            help,
            kind: MetricType::Counter,
            read,
        });
    }

    /// Adds a gauge read at each scrape, as [`Registry::counter_at_scrape`] does for counters.
    pub fn gauge_at_scrape<F>(&self, name: &'static str, help: &'static str, read: F)
    where
        F: Fn() -> Vec<Sample<f64>> + Send + Sync + 'static,
    {
        self.register_collector(AtScrape {
            name,
            help,
            kind: MetricType::Gauge,
            read,
        });
    }

    /// All metrics in OpenMetrics text, which Prometheus reads.
    ///
    /// # Errors
    /// Only when a collector refuses to be encoded, which is a defect.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        self.encode_with(&self.named)
    }

    /// As [`Registry::encode`], without the names and identities of workloads.
    ///
    /// # Errors
    /// As there.
    pub fn encode_nameless(&self) -> Result<String, fmt::Error> {
        self.encode_with(&self.nameless)
    }

    fn encode_with(&self, more: &RwLock<Inner>) -> Result<String, fmt::Error> {
        let mut out = String::with_capacity(16 << 10);
        for registry in [&self.common, more] {
            let registry = registry.read().unwrap_or_else(PoisonError::into_inner);
            text::encode_registry(&mut out, &registry)?;
        }
        text::encode_eof(&mut out)?;
        Ok(out)
    }
}

fn write(registry: &RwLock<Inner>) -> RwLockWriteGuard<'_, Inner> {
    registry.write().unwrap_or_else(PoisonError::into_inner)
}

/// The media type of [`Registry::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One value of a metric that is read at scrape time, with its labels.
#[derive(Clone, Debug)]
pub struct Sample<V> {
    /// Label names and values, in the order in which they are written.
    pub labels: Vec<(&'static str, String)>,
    /// The value now.
    pub value: V,
}

impl<V> Sample<V> {
    /// A sample without labels.
    pub fn plain(value: V) -> Vec<Self> {
        vec![Self {
            labels: Vec::new(),
            value,
        }]
    }
}

struct AtScrape<F> {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    read: F,
}

impl<F> fmt::Debug for AtScrape<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtScrape")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A value that a sample can hold, with how it is written.
trait SampleValue: Copy {
    fn encode(self, encoder: &mut MetricEncoder<'_>) -> fmt::Result;
}

impl SampleValue for u64 {
    fn encode(self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter::<NoLabelSet, _, u64>(&self, None)
    }
}

impl SampleValue for f64 {
    fn encode(self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self)
    }
}

impl<V: SampleValue + 'static, F: Fn() -> Vec<Sample<V>> + Send + Sync + 'static> Collector
    for AtScrape<F>
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, self.kind)?;
        for sample in (self.read)() {
            if sample.labels.is_empty() {
                sample.value.encode(&mut metric)?;
            } else {
                sample
                    .value
                    .encode(&mut metric.encode_family(&sample.labels)?)?;
            }
        }
        Ok(())
    }
}
