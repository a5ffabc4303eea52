//! Which images there are: their names, what is in them, how they start. It knows nothing of how they are made.

/// One image, under all its names.
#[derive(Debug)]
pub(super) struct Image {
    /// Complete names: registry, repository, tag.
    pub(super) names: &'static [&'static str],
    /// From the bottom up.
    pub(super) layers: &'static [Layer],
    pub(super) start: Start,
}

/// A layer's recipe.
#[derive(Debug)]
pub(super) enum Layer {
    /// Busybox with a link for each of its applets.
    Busybox,
    /// Debian's packages with all that they need, without what is in [`DEBIAN`].
    Packages(&'static [&'static str]),
    /// The packages of [`DEBIAN`].
    Debian,
    /// Our program under these paths.
    Program(&'static [&'static str]),
    /// Files, directories and links.
    Files(&'static [Entry]),
}

/// Something in a layer of files.
#[derive(Debug)]
pub(super) enum Entry {
    File(&'static str, &'static str),
    Directory(&'static str, u32),
    Link(&'static str, &'static str),
}

/// How a container of an image starts.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) entrypoint: &'static [&'static str],
    pub(super) command: &'static [&'static str],
    pub(super) environment: &'static [&'static str],
    pub(super) directory: &'static str,
    pub(super) user: &'static str,
    pub(super) ports: &'static [&'static str],
    pub(super) stop_signal: &'static str,
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A shell, until an image says otherwise.
const START: Start = Start {
    entrypoint: &[],
    command: &["sh"],
    environment: &[PATH],
    directory: "",
    user: "",
    ports: &[],
    stop_signal: "",
};

/// What lies under every image of Debian.
pub(super) const DEBIAN: &[&str] = &[
    "base-files",
    "base-passwd",
    "bash",
    "coreutils",
    "dash",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "libc-bin",
    "netbase",
    "procps",
    "sed",
    "tar",
    "usr-is-merged",
];

const NGINX_CONFIG: &str = "user www-data;
worker_processes 1;
error_log /var/log/nginx/error.log notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /var/log/nginx/access.log;
    sendfile on;
    keepalive_timeout 65;
    include /etc/nginx/conf.d/*.conf;
}
";

const NGINX_SITE: &str = "server {
    listen 80;
    server_name localhost;
    location / {
        root /usr/share/nginx/html;
        index index.html index.htm;
    }
}
";

const NGINX_PAGE: &str = "<!DOCTYPE html>
<html>
<head><title>Welcome to nginx!</title></head>
<body><h1>Welcome to nginx!</h1></body>
</html>
";

/// Users and groups of the small images.
const USERS: &[Entry] = &[
    Entry::File(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    ),
    Entry::File("etc/group", "root:x:0:\nnobody:x:65534:\n"),
    Entry::Directory("root", 0o700),
    Entry::Directory("home", 0o755),
    Entry::Directory("tmp", 0o1777),
    Entry::Directory("var", 0o755),
    Entry::Directory("usr/share", 0o755),
];

pub(super) const IMAGES: &[Image] = &[
    Image {
        names: &[
            "docker.io/library/busybox:latest",
            "docker.io/library/busybox:1.28",
            "docker.io/library/busybox:1.36",
            "registry.k8s.io/busybox:latest",
            "registry.k8s.io/e2e-test-images/busybox:1.37.0-1",
            "gcr.io/google_containers/busybox:latest",
        ],
        layers: &[Layer::Busybox, Layer::Files(USERS)],
        start: START,
    },
    Image {
        names: &[
            "docker.io/library/nginx:latest",
            "docker.io/library/nginx:1.7.9",
            "docker.io/library/nginx:1.9.1",
            "docker.io/library/nginx:1.14.2",
            "docker.io/library/nginx:1.16.1",
            "docker.io/library/nginx:1.16-alpine",
        ],
        layers: &[
            Layer::Debian,
            Layer::Packages(&["nginx-light", "curl"]),
            Layer::Files(&[
                Entry::File("etc/nginx/nginx.conf", NGINX_CONFIG),
                Entry::File("etc/nginx/conf.d/default.conf", NGINX_SITE),
                Entry::File("usr/share/nginx/html/index.html", NGINX_PAGE),
                Entry::Link("var/log/nginx/access.log", "/dev/stdout"),
                Entry::Link("var/log/nginx/error.log", "/dev/stderr"),
                Entry::Directory("var/lib/nginx", 0o755),
            ]),
        ],
        start: Start {
            command: &["nginx", "-g", "daemon off;"],
            ports: &["80/tcp"],
            stop_signal: "SIGQUIT",
            ..START
        },
    },
    Image {
        names: &["docker.io/library/redis:latest", "docker.io/library/redis:3.2-alpine"],
        layers: &[
            Layer::Debian,
            Layer::Packages(&["redis-server", "redis-tools"]),
            Layer::Files(&[Entry::Directory("data", 0o777)]),
        ],
        start: Start {
            command: &["redis-server", "--protected-mode", "no"],
            directory: "/data",
            ports: &["6379/tcp"],
            ..START
        },
    },
    Image {
        names: &["docker.io/library/debian:latest", "docker.io/library/debian:12"],
        layers: &[Layer::Debian],
        start: Start { command: &["bash"], ..START },
    },
    Image {
        names: &["docker.io/library/bash:latest"],
        layers: &[Layer::Debian],
        start: Start { command: &["bash"], ..START },
    },
    Image {
        names: &["docker.io/library/perl:latest", "docker.io/library/perl:5.34.0"],
        layers: &[Layer::Debian, Layer::Packages(&["perl"])],
        start: Start { command: &["perl", "-de0"], ..START },
    },
    Image {
        names: &["docker.io/library/python:latest", "docker.io/library/python:3"],
        layers: &[Layer::Debian, Layer::Packages(&["python3"])],
        start: Start { command: &["python3"], ..START },
    },
    Image {
        names: &["docker.io/curlimages/curl:latest"],
        layers: &[Layer::Debian, Layer::Packages(&["nginx-light", "curl"])],
        start: Start { entrypoint: &["curl"], command: &[], ..START },
    },
    Image {
        names: &["docker.io/polinux/stress:latest"],
        layers: &[Layer::Debian, Layer::Packages(&["stress"])],
        start: Start { command: &["stress"], ..START },
    },
    Image {
        names: &["docker.io/vish/stress:latest"],
        layers: &[Layer::Program(&["stress"])],
        start: Start { entrypoint: &["/stress", "-logtostderr"], command: &[], ..START },
    },
    Image {
        names: &[
            "registry.k8s.io/pause:2.0",
            "registry.k8s.io/pause:3.1",
            "registry.k8s.io/pause:3.9",
            "registry.k8s.io/pause:3.10",
        ],
        layers: &[Layer::Program(&["pause"])],
        start: Start { entrypoint: &["/pause"], command: &[], ..START },
    },
    Image {
        names: &[
            "registry.k8s.io/e2e-test-images/agnhost:2.40",
            "registry.k8s.io/e2e-test-images/agnhost:2.45",
            "registry.k8s.io/e2e-test-images/agnhost:2.53",
        ],
        layers: &[Layer::Busybox, Layer::Files(USERS), Layer::Program(&["agnhost"])],
        start: Start { entrypoint: &["/agnhost"], command: &["pause"], ..START },
    },
    Image {
        names: &["registry.k8s.io/goproxy:0.1"],
        layers: &[Layer::Program(&["goproxy"])],
        start: Start { entrypoint: &["/goproxy"], command: &[], ports: &["8080/tcp"], ..START },
    },
    Image {
        names: &["gcr.io/google-samples/hello-app:2.0"],
        layers: &[Layer::Program(&["hello-app"])],
        start: Start {
            entrypoint: &["/hello-app"],
            command: &[],
            environment: &[PATH, "APP_VERSION=2.0.0"],
            ports: &["8080/tcp"],
            ..START
        },
    },
    Image {
        names: &["docker.io/library/my-app:v3", "docker.io/library/my-app:v4"],
        layers: &[Layer::Busybox, Layer::Files(USERS), Layer::Program(&["health"])],
        start: Start {
            entrypoint: &["/health"],
            command: &[],
            user: "1000",
            ports: &["8080/tcp"],
            ..START
        },
    },
    Image {
        names: &["quay.io/crio/artifact:v2"],
        layers: &[Layer::Files(&[Entry::File("file", "2\n"), Entry::File("dir/file", "1\n")])],
        start: Start { command: &[], environment: &[], ..START },
    },
];

/// What the recorded kubelet ran: nothing but busybox, found in `/bin`.
pub(super) const RECORDED_BUSYBOX: Image = Image {
    names: &["docker.io/library/busybox:latest"],
    layers: &[Layer::Busybox],
    start: Start { environment: &["PATH=/bin"], ..START },
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_name_is_complete_and_there_once() {
        let mut seen = BTreeSet::new();
        for name in IMAGES.iter().flat_map(|it| it.names) {
            let (registry, rest) = name.split_once('/').unwrap();
            assert!(registry.contains('.') && rest.contains(':'), "{name}");
            assert!(seen.insert(rest), "{name}: all registries are one here");
        }
    }
}
