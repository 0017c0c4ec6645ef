//! One call that builds a Prometheus recorder, gives it scopes, and installs it.
//!
//! ```
//! use dualstack_metrics::{ClientLabels, Scope};
//! use metrics_exporter_prometheus::PrometheusBuilder;
//!
//! let metrics = dualstack_metrics::prometheus::install(PrometheusBuilder::new())?;
//!
//! Scope::new(&ClientLabels::UNKNOWN).run(|| metrics::counter!("requests_total").increment(1));
//! assert_eq!(
//!     metrics.render().trim_end(),
//!     "# TYPE requests_total counter\n\
//!      requests_total{client_address_ip_family=\"unknown\",client_address_ip_type=\"unknown\"} 1",
//! );
//! # Ok::<(), dualstack_metrics::prometheus::InstallError>(())
//! ```
//!
//! [`install`] opens no port: serve [`PrometheusHandle::render`] from the program's own HTTP server. The features
//! `http-listener` and `push-gateway` add `Install::install_exporter`, which runs the exporter's own server or client.
//! Upkeep, which keeps histograms from growing between scrapes, runs on a separate thread.

use std::{
    fmt, io, mem,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

#[cfg(any(feature = "http-listener", feature = "push-gateway"))]
use metrics_exporter_prometheus::BuildError;
pub use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_util::MetricKind;
pub use metrics_util::MetricKindMask;

use crate::{
    recorder::{ScopedRecorder, ScopedRecorderLayer},
    scope::note_names,
};

/// The same as the exporter's default.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Installs the recorder of `builder` as the global one, with scoped counters, no idle timeout, and its upkeep running.
///
/// An idle timeout of the builder is replaced, because the cache of this crate cannot read it:
/// [`Install::idle_timeout`] is the place to set one.
///
/// # Errors
///
/// If a global recorder is already installed, or no thread can be started.
pub fn install(builder: PrometheusBuilder) -> Result<PrometheusHandle, InstallError> {
    Install::new(builder).install()
}

/// [`install`] with choices.
///
/// ```
/// use dualstack_metrics::{
///     ScopedRecorderLayer,
///     prometheus::{Install, MetricKindMask, PrometheusBuilder},
/// };
/// use std::time::Duration;
///
/// let metrics = Install::new(PrometheusBuilder::new())
///     .recorder(ScopedRecorderLayer::new().exclude_prefix("swarm_coordination_registry_"))
///     .idle_timeout(MetricKindMask::ALL, Some(Duration::from_secs(600)))
///     .install()?;
/// # let _ = metrics;
/// # Ok::<(), dualstack_metrics::prometheus::InstallError>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is installed before `install` is called"]
pub struct Install {
    builder: PrometheusBuilder,
    layer: ScopedRecorderLayer,
    idle_timeout: (MetricKindMask, Option<Duration>),
}

impl Install {
    /// Starts with the defaults of [`install`].
    pub fn new(builder: PrometheusBuilder) -> Self {
        note_names(global_labels(&format!("{builder:?}")).iter().map(String::as_str));
        Self {
            builder,
            layer: ScopedRecorderLayer::new(),
            idle_timeout: (MetricKindMask::NONE, None),
        }
    }

    /// Sets which metrics are scoped, and how they are cached. The default is `ScopedRecorderLayer::new()`.
    pub fn recorder(mut self, layer: ScopedRecorderLayer) -> Self {
        self.layer = layer;
        self
    }

    /// Makes the exporter forget metrics of these kinds that were idle for `timeout`. The default is never.
    ///
    /// Cached metrics are then registered again when they were idle for half of `timeout`, or for
    /// [`ScopedRecorderLayer::revalidate_after`] if that is less, and each increment reads the clock. With `None`, or a
    /// mask without any kind that is scoped and cached, they are never registered again.
    pub fn idle_timeout(mut self, mask: MetricKindMask, timeout: Option<Duration>) -> Self {
        self.idle_timeout = (mask, timeout);
        self
    }

    /// Builds the recorder without installing it or starting its upkeep: for a stack of recorder layers, or for
    /// [`metrics::with_local_recorder`] in a test. Render it with `recorder.get_ref().handle().render()`.
    #[must_use]
    pub fn build_recorder(self) -> ScopedRecorder<PrometheusRecorder> {
        let (builder, layer) = self.into_parts();
        layer.wrap(builder.build_recorder())
    }

    /// Installs the recorder as the global one, and starts its upkeep.
    ///
    /// # Errors
    ///
    /// If a global recorder is already installed, or no thread can be started. Nothing is installed then.
    pub fn install(self) -> Result<PrometheusHandle, InstallError> {
        let (builder, layer) = self.into_parts();
        let recorder = builder.build_recorder();
        let handle = recorder.handle();

        // Starts first, because an installation cannot be undone.
        let upkeep = handle.clone();
        let (installed, is_installed) = mpsc::channel::<()>();
        thread::Builder::new()
            .name("metrics-upkeep".into())
            .spawn(move || {
                while is_installed.recv_timeout(UPKEEP_INTERVAL) != Err(RecvTimeoutError::Disconnected) {
                    upkeep.run_upkeep();
                }
            })
            .map_err(|error| InstallError(Kind::Thread(error)))?;
        set_global(&layer, recorder)?;
        // The thread ends when this is dropped. Like the recorder, it never is.
        mem::forget(installed);
        Ok(handle)
    }

    /// Installs the recorder as the global one, and runs the builder's exporter: its HTTP listener or its push gateway
    /// client. The exporter runs on the current tokio runtime if there is one, otherwise on a separate thread.
    ///
    /// # Errors
    ///
    /// If the builder cannot build an exporter (for example because the address is in use), if a global recorder is
    /// already installed, or if no thread can be started. Nothing is installed then.
    #[cfg(any(feature = "http-listener", feature = "push-gateway"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "http-listener", feature = "push-gateway"))))]
    pub fn install_exporter(self) -> Result<PrometheusHandle, InstallError> {
        use tokio::runtime::{Builder, Handle};

        let (builder, layer) = self.into_parts();
        let build = |runtime: &Handle| {
            let _entered = runtime.enter();
            builder.build().map_err(|error| InstallError(Kind::Build(error)))
        };
        if let Ok(runtime) = Handle::try_current() {
            let (recorder, exporter) = build(&runtime)?;
            let handle = recorder.handle();
            set_global(&layer, recorder)?;
            runtime.spawn(exporter);
            return Ok(handle);
        }

        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| InstallError(Kind::Thread(error)))?;
        let (recorder, exporter) = build(runtime.handle())?;
        let handle = recorder.handle();
        // Starts first, because an installation cannot be undone.
        let (installed, is_installed) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("metrics-exporter".into())
            .spawn(move || {
                if is_installed.recv().is_ok() {
                    drop(runtime.block_on(exporter));
                }
            })
            .map_err(|error| InstallError(Kind::Thread(error)))?;
        if let Err(error) = set_global(&layer, recorder) {
            // The thread ends, and the exporter's address is free again.
            drop(installed);
            drop(thread.join());
            return Err(error);
        }
        let _ = installed.send(());
        Ok(handle)
    }

    fn into_parts(self) -> (PrometheusBuilder, ScopedRecorderLayer) {
        let Self {
            builder,
            layer,
            idle_timeout: (mask, timeout),
        } = self;
        let forgets_scoped = [MetricKind::Counter, MetricKind::Histogram]
            .into_iter()
            .any(|kind| mask.matches(kind) && layer.scopes_any(kind));
        let layer = match timeout {
            Some(timeout) if forgets_scoped => {
                let revalidation = layer.revalidation().unwrap_or(Duration::MAX);
                layer.revalidate_after(revalidation.min(timeout / 2))
            }
            _ => layer.never_revalidate(),
        };
        (builder.idle_timeout(mask, timeout), layer)
    }
}

/// The names of the global labels in a builder's `Debug` output. The builder has no other way to read them, so a version
/// of the exporter with another output has none.
fn global_labels(builder: &str) -> Vec<String> {
    let mut rest = builder
        .split_once("global_labels: Some({")
        .map_or("", |(_, rest)| rest);
    let mut names = Vec::new();
    while let Some((name, after)) = rest.strip_prefix('"').and_then(|rest| rest.split_once("\": \"")) {
        names.push(name.to_owned());
        // The value ends at a quote that is not escaped.
        let mut is_escaped = false;
        let end = after.find(|c| {
            let is_end = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            is_end
        });
        rest = end.map_or("", |end| after[end + 1..].trim_start_matches(", "));
    }
    names
}

fn set_global(layer: &ScopedRecorderLayer, recorder: PrometheusRecorder) -> Result<(), InstallError> {
    metrics::set_global_recorder(layer.wrap(recorder)).map_err(|_| InstallError(Kind::AlreadyInstalled))
}

/// The error of [`install`] and [`Install`]: no recorder was installed.
#[derive(Debug)]
pub struct InstallError(Kind);

impl InstallError {
    /// Whether the reason is that a global recorder was already installed.
    #[must_use]
    pub fn is_already_installed(&self) -> bool {
        matches!(self.0, Kind::AlreadyInstalled)
    }
}

#[derive(Debug)]
enum Kind {
    AlreadyInstalled,
    Thread(io::Error),
    #[cfg(any(feature = "http-listener", feature = "push-gateway"))]
    Build(BuildError),
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::AlreadyInstalled => f.write_str(
                "a global metrics recorder is already installed: install only one, and combine several recorders \
                 with `metrics_util::layers::FanoutBuilder`",
            ),
            Kind::Thread(error) => write!(f, "cannot start the thread for the recorder's upkeep or exporter: {error}"),
            #[cfg(any(feature = "http-listener", feature = "push-gateway"))]
            Kind::Build(error) => write!(f, "cannot build the Prometheus exporter: {error}"),
        }
    }
}

impl std::error::Error for InstallError {
    /// The message includes the underlying error, so this is the source of the underlying error.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Kind::AlreadyInstalled => None,
            Kind::Thread(error) => error.source(),
            #[cfg(any(feature = "http-listener", feature = "push-gateway"))]
            Kind::Build(error) => error.source(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn cached_metrics_are_registered_again_after_half_of_the_idle_timeout() {
        let revalidation = |install: Install| install.into_parts().1.revalidation();
        let install = || Install::new(PrometheusBuilder::new());
        let millis = Duration::from_millis;
        let (all, some) = (MetricKindMask::ALL, |time| Some(millis(time)));
        assert_eq!(revalidation(install()), None);
        for (timeout, expected) in [(400, 200), (1_000, 500), (600_000, 500)] {
            assert_eq!(
                revalidation(install().idle_timeout(all, some(timeout))),
                some(expected)
            );
        }
        let sooner = ScopedRecorderLayer::new().revalidate_after(millis(50));
        assert_eq!(
            revalidation(install().recorder(sooner).idle_timeout(all, some(400))),
            some(50)
        );
        let never = ScopedRecorderLayer::new().never_revalidate();
        assert_eq!(
            revalidation(install().recorder(never).idle_timeout(all, some(400))),
            some(200)
        );
    }

    #[test]
    fn nothing_is_registered_again_if_nothing_that_is_cached_is_forgotten() {
        let histogram = MetricKindMask::HISTOGRAM;
        let timeout = Some(Duration::from_secs(10));
        let revalidation = |layer, mask, timeout| {
            let install = Install::new(PrometheusBuilder::new()).recorder(layer);
            install.idle_timeout(mask, timeout).into_parts().1.revalidation()
        };
        let layer = ScopedRecorderLayer::new;
        assert_eq!(revalidation(layer(), MetricKindMask::ALL, None), None);
        assert_eq!(revalidation(layer(), histogram, timeout), None);
        assert_eq!(
            revalidation(layer().gauges(), MetricKindMask::GAUGE, timeout),
            None
        );
        let one = layer().include(histogram, "request_seconds");
        assert!(revalidation(one, histogram, timeout).is_some());
        assert!(revalidation(layer().histograms(), histogram, timeout).is_some());
    }

    #[test]
    fn the_names_of_global_labels_are_found() {
        let names = |builder: PrometheusBuilder| global_labels(&format!("{builder:?}"));
        assert_eq!(names(PrometheusBuilder::new()), [""; 0]);
        let builder = PrometheusBuilder::new()
            .add_global_label("service.name", "a \"quoted\", \"x\": \"y\"}) \\")
            .add_global_label("zone", "")
            .add_global_label("rack", "7");
        assert_eq!(names(builder), ["service.name", "zone", "rack"]);
    }

    #[test]
    fn a_report_of_an_error_shows_each_message_once() {
        #[derive(Debug)]
        struct Inner;

        impl fmt::Display for Inner {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("no memory")
            }
        }

        impl std::error::Error for Inner {}

        let error = InstallError(Kind::Thread(io::Error::other(Inner)));
        let mut messages = vec![error.to_string()];
        let mut source = error.source();
        while let Some(error) = source {
            messages.push(error.to_string());
            source = error.source();
        }
        assert_eq!(
            messages,
            ["cannot start the thread for the recorder's upkeep or exporter: no memory"]
        );
    }
}
