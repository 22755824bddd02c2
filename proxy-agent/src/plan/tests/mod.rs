//! Tests of the plan.

mod story;
mod support;
