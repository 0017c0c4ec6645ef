//! The exports of an OpenTelemetry SDK for instruments of a `ScopedMeterProvider`.

mod attributes;
mod exported;
mod kinds;
mod memory;
mod providers;
mod sdk;
