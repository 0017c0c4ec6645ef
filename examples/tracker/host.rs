//! What the host counts: asked for before the counters are rendered.

#[cfg(feature = "kernel")]
use dualstack_metrics::KernelCounters;
use dualstack_metrics::udp_adapter::SocketDrops;

use crate::cli::Args;

pub(crate) struct Host {
    drops: Vec<SocketDrops>,
    #[cfg(feature = "kernel")]
    kernel: Option<KernelCounters>,
}

impl Host {
    #[cfg_attr(
        not(feature = "kernel"),
        expect(unused_variables, reason = "the rest is not an option")
    )]
    pub(crate) fn new(args: &Args) -> Self {
        Self {
            drops: Vec::new(),
            #[cfg(feature = "kernel")]
            kernel: (!args.no_kernel).then(|| {
                let interfaces = args.kernel_interface.iter();
                interfaces.fold(KernelCounters::new(), KernelCounters::interface)
            }),
        }
    }

    pub(crate) fn add(&mut self, drops: SocketDrops) {
        self.drops.push(drops);
    }

    /// What cannot be had is left as it was: the other counters are worth showing.
    pub(crate) fn update(&self) {
        for drops in &self.drops {
            if let Err(error) = drops.update() {
                tracing::warn!(%error, "the drops of a socket cannot be read");
            }
        }
        #[cfg(feature = "kernel")]
        if let Some(Err(error)) = self.kernel.as_ref().map(KernelCounters::update) {
            tracing::warn!(%error, "the kernel's counters cannot be read");
        }
    }
}
