use dualstack_metrics::{Protocol, ServerBinding};

use super::{assert_one_each, get, listener, recorder};

mod axum_07_and_08 {
    use super::*;

    use dualstack_metrics::ClientLabelsLayer;
    use std::net::SocketAddr;

    /// Both find the client with one feature each.
    #[tokio::test]
    async fn count_the_client_in_one_program() {
        let recorder = recorder();
        let _guard = metrics::set_default_local_recorder(&recorder);

        let (listener, address) = listener();
        let layer = ClientLabelsLayer::new(ServerBinding::new(Protocol::Http, address));
        let app = axum_07::Router::new()
            .route("/", axum_07::routing::get(hello))
            .layer(layer)
            .into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async { axum_07::serve(listener, app).await });
        get(address, "/").await;
        assert_one_each(&recorder, "hellos_total", address);

        let (listener, address) = super::listener();
        let layer = ClientLabelsLayer::new(ServerBinding::new(Protocol::Http, address));
        let app = axum::Router::new()
            .route("/", axum::routing::get(hello_08))
            .layer(layer)
            .into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async { axum::serve(listener, app).await });
        get(address, "/").await;
        assert_one_each(&recorder, "hellos_of_08_total", address);
    }

    async fn hello_08() -> &'static str {
        metrics::counter!("hellos_of_08_total").increment(1);
        "hello"
    }
}

mod axum_07_ {
    use super::*;

    use axum_07::{Router, extract::ConnectInfo, routing};
    use dualstack_metrics::ClientLabelsLayer;
    use std::net::SocketAddr;

    #[tokio::test]
    async fn counts_the_client_of_a_named_type() {
        let recorder = recorder();
        let _guard = metrics::set_default_local_recorder(&recorder);
        let (listener, address) = listener();
        let binding = ServerBinding::new(Protocol::Http, address);

        let layer = ClientLabelsLayer::new(binding).connect_info(|info: &ConnectInfo<SocketAddr>| info.0);
        let app = Router::new().route("/", routing::get(hello)).layer(layer);

        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async { axum_07::serve(listener, app).await });
        get(address, "/").await;
        assert_one_each(&recorder, "hellos_total", address);
    }
}

mod axum_06_ {
    use super::*;

    use axum_06::{Router, body::Body, extract::ConnectInfo, http::Request, routing};
    use dualstack_metrics::ClientLabelsLayer;
    use std::net::SocketAddr;

    fn client(request: &Request<Body>) -> Option<SocketAddr> {
        request
            .extensions()
            .get::<ConnectInfo<SocketAddr>>()
            .map(|info| info.0)
    }

    #[tokio::test]
    async fn counts_the_client() {
        let recorder = recorder();
        let _guard = metrics::set_default_local_recorder(&recorder);
        let (listener, address) = listener();
        let binding = ServerBinding::new(Protocol::Http, address);

        let app = Router::new()
            .route("/", routing::get(hello))
            .layer(ClientLabelsLayer::new(binding).source(client).without_body());

        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let server = axum_06::Server::from_tcp(listener.into_std().unwrap()).unwrap();
        tokio::spawn(async { server.serve(app).await });
        get(address, "/").await;
        assert_one_each(&recorder, "hellos_total", address);
    }
}

async fn hello() -> &'static str {
    metrics::counter!("hellos_total").increment(1);
    "hello"
}
