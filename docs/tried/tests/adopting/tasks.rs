use std::net::SocketAddr;

use dualstack_metrics::{ClientLabels, ClientScopes, Protocol, Scope, ServerBinding, WithScope};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    runtime,
    sync::oneshot,
    task::{JoinSet, LocalSet},
};

async fn work() -> Scope {
    tokio::task::yield_now().await;
    Scope::current()
}

fn heavy() -> Scope {
    Scope::current()
}

#[tokio::test]
async fn a_task_inherits_no_scope() {
    let scope = Scope::new(&ClientLabels::UNKNOWN);
    let request = async {
        tokio::spawn(work().with_current_scope());
        tokio::task::spawn_blocking(Scope::current().bind(heavy));
        std::thread::spawn(Scope::current().bind(heavy));

        assert_eq!(tokio::spawn(work()).await.unwrap(), Scope::none());
        assert_eq!(tokio::spawn(work().with_current_scope()).await.unwrap(), scope);
        assert_eq!(tokio::task::spawn_blocking(heavy).await.unwrap(), Scope::none());
        let bound = Scope::current().bind(heavy);
        assert_eq!(tokio::task::spawn_blocking(bound).await.unwrap(), scope);
        assert_eq!(tokio::join!(work(), work()), (scope, scope));
        let selected = tokio::select! { selected = work() => selected };
        assert_eq!(selected, scope);
        let all: Vec<_> = FuturesUnordered::from_iter([work(), work()]).collect().await;
        assert_eq!(all, [scope, scope]);
        let mut spawned = JoinSet::from_iter([work()]);
        assert_eq!(spawned.join_next().await.unwrap().unwrap(), Scope::none());
    };
    request.with_scope(scope).await;
}

struct Request {
    from: SocketAddr,
}

async fn process(request: Request) -> (SocketAddr, Scope) {
    (request.from, work().await)
}

#[tokio::test]
async fn a_value_that_moves_the_address_is_wrapped() {
    let binding = ServerBinding::new(Protocol::Udp, "[::]:6969".parse().unwrap());
    let scopes = ClientScopes::new(binding);
    let from = "192.0.2.7:50000".parse().unwrap();
    let request = Request { from };
    let spawned = tokio::spawn(scopes.for_client(request.from).wrap(process(request)));
    assert_eq!(spawned.await.unwrap(), (from, scopes.for_client(from)));
}

#[test]
fn a_task_runs_in_the_scope_of_whoever_polls_it() {
    let scope = Scope::new(&ClientLabels::UNKNOWN);

    // A runtime that is driven from inside a scope.
    let on_one_thread = runtime::Builder::new_current_thread().build().unwrap();
    let inherited = scope.run(|| on_one_thread.block_on(async { tokio::spawn(work()).await.unwrap() }));
    assert_eq!(inherited, scope);

    // Also a task that somebody else spawned before.
    let (release, released) = oneshot::channel::<()>();
    let earlier = on_one_thread.spawn(async {
        released.await.unwrap();
        Scope::current()
    });
    let inherited = scope.run(|| {
        on_one_thread.block_on(async {
            release.send(()).unwrap();
            earlier.await.unwrap()
        })
    });
    assert_eq!(inherited, scope);

    // The scope is around the future and not around the runtime.
    let request = async { (Scope::current(), tokio::spawn(work()).await.unwrap()) };
    let (inside, inherited) = on_one_thread.block_on(request.with_scope(scope));
    assert_eq!((inside, inherited), (scope, Scope::none()));

    // Workers of their own.
    let on_workers = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let inherited = scope.run(|| on_workers.block_on(async { tokio::spawn(work()).await.unwrap() }));
    assert_eq!(inherited, Scope::none());

    // A `LocalSet` that is driven from inside a scope.
    let local = LocalSet::new();
    let driven = local.run_until(async { tokio::task::spawn_local(work()).await.unwrap() });
    assert_eq!(on_one_thread.block_on(driven.with_scope(scope)), scope);

    let background = || async { tokio::spawn(work().with_scope(Scope::none())).await.unwrap() };
    assert_eq!(scope.run(|| on_one_thread.block_on(background())), Scope::none());
}
