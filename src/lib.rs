//! stub
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod labels;
pub mod layer;
pub mod scope;

#[doc(inline)]
pub use self::{
    labels::{BoundedLabel, ClientLabels, IpFamily, IpType, LabelList, LabelSet, Protocol, ServerBinding},
    layer::ClientLabelsLayer,
    scope::{ClientScopes, EnteredScope, InScope, MAX_LABEL_SETS, Scope, Scoped, TooManyLabelSets},
};
