//! Futures, streams and other values in a scope, without a server.

use std::{
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
};

use dualstack_metrics::{ClientLabels, Scope, WithScope};
use futures_util::{FutureExt, Stream as _, StreamExt as _, future::join, stream};
use metrics::counter;
use test_support::{INET, INET6, MAPPED, UNKNOWN, V4, V6, recorded};

use crate::{CountDrop, mock, mock_scopes, plain};

#[test]
fn futures_that_take_turns_on_one_thread_never_see_each_other() {
    recorded(async |metrics| {
        let scopes = mock_scopes();
        let work = async |steps: usize| {
            let own = Scope::current();
            for _ in 0..steps {
                counter!("steps_total").increment(1);
                tokio::task::yield_now().await;
                assert_eq!(Scope::current(), own);
            }
        };
        let tasks: Vec<_> = ClientLabels::ALL
            .iter()
            .map(|client| tokio::spawn(work(10).with_scope(scopes.for_client(*client))))
            .collect();
        let bare = tokio::spawn(work(7));
        // Also in one task.
        let (first, second) = (
            work(3).with_scope(scopes.for_client(V4)),
            work(4).with_scope(scopes.for_client(V6)),
        );
        join(join(first, second), work(5)).await;
        for task in tasks.into_iter().chain([bare]) {
            task.await.unwrap();
        }
        metrics.assert([
            mock("steps_total", INET, 13),
            mock("steps_total", MAPPED, 10),
            mock("steps_total", INET6, 14),
            mock("steps_total", UNKNOWN, 10),
            plain("steps_total", 12),
        ]);
    });
}

#[test]
fn a_future_in_a_scope_inside_another() {
    recorded(async |metrics| {
        let scopes = mock_scopes();
        let count = || counter!("steps_total").increment(1);
        async {
            count();
            async {
                count();
                tokio::task::yield_now().await;
                count();
            }
            .with_scope(scopes.for_client(V6))
            .await;
            async {
                count();
                tokio::task::yield_now().await;
                count();
            }
            .with_scope(Scope::none())
            .await;
            count();
        }
        .with_scope(scopes.for_client(V4))
        .await;
        metrics.assert([
            mock("steps_total", INET, 2),
            mock("steps_total", INET6, 2),
            plain("steps_total", 2),
        ]);
    });
}

#[test]
fn streams() {
    recorded(async |metrics| {
        let scopes = mock_scopes();
        let counting = |items: usize| {
            let dropped = CountDrop("dropped_total");
            let mut left = items;
            stream::poll_fn(move |_| {
                let _ = &dropped;
                counter!("polls_total").increment(1);
                if left == 0 {
                    return Poll::Ready(None);
                }
                left -= 1;
                Poll::Ready(Some(left))
            })
        };
        let ended = counting(3).with_scope(scopes.for_client(V4));
        let cut = counting(9).with_scope(scopes.for_client(V6));
        let (mut ended, mut cut) = (pin!(ended), Box::pin(cut));
        for _ in 0..4 {
            ended.next().await;
            counter!("between_total").increment(1);
            cut.next().await;
        }
        drop(cut);
        metrics.assert([
            plain("between_total", 4),
            mock("polls_total", INET, 4),
            mock("polls_total", INET6, 4),
            mock("dropped_total", INET6, 1),
        ]);
        let sized = stream::iter(0..5).with_scope(scopes.for_client(V4));
        assert_eq!(sized.size_hint(), (5, Some(5)));
        assert_eq!(sized.collect::<Vec<_>>().await, [0, 1, 2, 3, 4]);
    });
}

#[test]
fn a_value_that_is_taken_out_of_the_wrapper_is_outside_the_scope() {
    recorded(async |metrics| {
        let scope = mock_scopes().for_client(V4);
        drop(scope.wrap(CountDrop("inside_total")));
        drop(scope.wrap(CountDrop("outside_total")).into_inner());

        let polls = AtomicUsize::new(0);
        let work = poll_fn(|_| {
            counter!("polls_total").increment(1);
            if polls.fetch_add(1, Ordering::Relaxed) < 2 {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        });
        let mut scoped = work.with_scope(scope);
        assert!((&mut scoped).now_or_never().is_none());
        assert!(scoped.get_mut().now_or_never().is_none());
        assert!(scoped.into_inner().now_or_never().is_some());
        metrics.assert([
            mock("inside_total", INET, 1),
            plain("outside_total", 1),
            mock("polls_total", INET, 1),
            plain("polls_total", 2),
        ]);
    });
}
