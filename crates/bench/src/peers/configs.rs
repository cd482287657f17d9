//! Configurations of the peers.

use std::net::SocketAddr;

use serde_json::json;

use super::Setting;

/// Below the 20 000 descriptors that are common as a hard limit, with two for each call.
const CONNECTIONS_MAX: u32 = 9_900;

const CIPHER: &str = "TLS_AES_128_GCM_SHA256";

pub(super) fn haproxy(setting: &Setting<'_>, addr: SocketAddr) -> String {
    let [blue, green] = setting.backends;
    let tls = setting.tls.map_or_else(String::new, |tls| {
        let both = tls.both.display();
        format!(" ssl crt {both} ssl-min-ver TLSv1.3 ciphersuites {CIPHER}")
    });
    format!(
        "global
    nbthread 1
    maxconn {CONNECTIONS_MAX}
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
    maxconn {CONNECTIONS_MAX}
frontend calls
    bind {addr}{tls}
    default_backend agents
backend agents
    balance roundrobin
    server blue {blue}
    server green {green}
"
    )
}

pub(super) fn nginx(setting: &Setting<'_>, addr: SocketAddr) -> String {
    let [blue, green] = setting.backends;
    let tls = setting.tls.map_or_else(String::new, |tls| {
        format!(
            "ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites {CIPHER};",
            tls.cert.display(),
            tls.key.display()
        )
    });
    let ssl = if setting.tls.is_some() { " ssl" } else { "" };
    let dir = setting.dir.display();
    let user = if rustix::process::getuid().is_root() {
        "user root;"
    } else {
        ""
    };
    format!(
        "{user}
worker_processes 1;
daemon off;
pid {dir}/nginx.pid;
worker_rlimit_nofile 20000;
events {{ worker_connections 19900; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
    upstream agents {{ server {blue}; server {green}; }}
    server {{
        listen {addr}{ssl};
        {tls}
        location / {{
            proxy_pass http://agents;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
        }}
    }}
}}
"
    )
}

pub(super) fn envoy(setting: &Setting<'_>, addr: SocketAddr) -> String {
    let at = |addr: SocketAddr| json!({"socket_address": {"address": addr.ip().to_string(), "port_value": addr.port()}});
    let endpoint = |addr: SocketAddr| json!({"endpoint": {"address": at(addr)}});
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let manager = json!({
        "@type": kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "calls",
        "codec_type": "HTTP1",
        "stream_idle_timeout": "0s",
        // Its default of a second is waited for at the end of every call.
        "delayed_close_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": [{
            "name": "calls",
            "domains": ["*"],
            "routes": [{
                "match": {"prefix": "/"},
                "route": {"cluster": "agents", "timeout": "0s", "idle_timeout": "0s"},
            }],
        }]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": kind("filters.http.router.v3.Router")},
        }],
    });
    let mut chain = json!({"filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": manager,
    }]});
    if let Some(tls) = setting.tls {
        chain["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": kind("transport_sockets.tls.v3.DownstreamTlsContext"),
                "common_tls_context": {
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
                    "tls_certificates": [{
                        "certificate_chain": {"filename": tls.cert},
                        "private_key": {"filename": tls.key},
                    }],
                },
            },
        });
    }
    let many = 1_000_000;
    let document = json!({
        "static_resources": {
            "listeners": [{"name": "calls", "address": at(addr), "filter_chains": [chain]}],
            "clusters": [{
                "name": "agents",
                "connect_timeout": "5s",
                "type": "STATIC",
                "lb_policy": "ROUND_ROBIN",
                "circuit_breakers": {"thresholds": [{
                    "max_connections": many,
                    "max_pending_requests": many,
                    "max_requests": many,
                }]},
                "load_assignment": {
                    "cluster_name": "agents",
                    "endpoints": [{"lb_endpoints": setting.backends.map(endpoint)}],
                },
            }],
        },
    });
    document.to_string()
}

pub(super) fn sozu(setting: &Setting<'_>, addr: SocketAddr) -> String {
    let [blue, green] = setting.backends;
    let dir = setting.dir.display();
    format!(
        "command_socket = \"{dir}/sozu.sock\"
saved_state = \"{dir}/sozu.state\"
log_level = \"error\"
log_target = \"stdout\"
worker_count = 1
worker_automatic_restart = false
max_connections = {CONNECTIONS_MAX}
activate_listeners = true
[[listeners]]
protocol = \"http\"
address = \"{addr}\"
front_timeout = 3600
back_timeout = 3600
connect_timeout = 5
request_timeout = 3600
[clusters.agents]
protocol = \"http\"
load_balancing = \"ROUND_ROBIN\"
frontends = [{{ address = \"{addr}\", hostname = \"bench\" }}]
backends = [{{ address = \"{blue}\" }}, {{ address = \"{green}\" }}]
"
    )
}
