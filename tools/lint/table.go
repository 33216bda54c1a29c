package main

// rule says what the Go files of one directory, and of those below it, may
// import. Their own package tree is always allowed. Test files are free: they
// stand outside the arrows.
type rule struct {
	dir string
	// inModule lists directories of this module, with all below them.
	inModule []string
	// pure packages import nothing but the standard library besides.
	pure bool
}

// rules is the layout: one line for each package, arrows point one way, to
// pkg/model. Every directory with Go files must fall under one of them.
func rules() []rule {
	const pure = true
	return []rule{
		{dir: "pkg/model", pure: pure},
		{dir: "pkg/maglev", pure: pure},
		{dir: "pkg/quiclb", pure: pure},
		{dir: "pkg/forwarding", inModule: []string{"pkg/model", "pkg/maglev"}, pure: pure},
		{dir: "pkg/flux", inModule: []string{"pkg/forwarding"}, pure: pure},
		{dir: "pkg/config", inModule: []string{"pkg/model"}},
		{dir: "pkg/health", inModule: []string{"pkg/model"}},
		{dir: "pkg/neighbor"},
		{dir: "pkg/xdp", inModule: []string{"pkg/model"}},
		{dir: "pkg/dataplane", inModule: []string{"pkg/model", "pkg/forwarding", "pkg/flux", "pkg/xdp"}},
		{dir: "pkg/reconcile", inModule: []string{"pkg/model", "pkg/forwarding", "pkg/flux", "pkg/health", "pkg/neighbor", "pkg/dataplane"}},
		{dir: "pkg/store", inModule: []string{"pkg/model"}},
		{dir: "pkg/api", inModule: []string{"pkg/model"}},
		{dir: "pkg/metrics", inModule: []string{"pkg/model"}},
		{dir: "pkg/trace", inModule: []string{"pkg/model"}},
		{dir: "pkg/cli", inModule: []string{"pkg/model", "pkg/api"}},
		{dir: "pkg/backend", inModule: []string{"pkg/model", "pkg/xdp"}},
		{dir: "pkg/announce", inModule: []string{"pkg/model"}},
		{dir: "pkg/daemon", inModule: []string{"pkg"}},
		{dir: "cmd", inModule: []string{"pkg"}},
		{dir: "test", inModule: []string{"pkg"}},
		{dir: "tools", inModule: []string{"pkg", "test"}},
	}
}

// owner says which directories may import a library, with all below them.
type owner struct {
	library string
	dirs    []string
}

// owners keeps each of these libraries behind one package. Libraries that are
// not listed may be used by every package that is not pure.
func owners() []owner {
	return []owner{
		{"github.com/cilium/ebpf", []string{"pkg/xdp", "pkg/dataplane", "pkg/backend", "test", "tools"}},
		{"github.com/vishvananda/netlink", []string{"pkg/neighbor", "pkg/backend", "test", "tools"}},
		{"github.com/vishvananda/netns", []string{"test", "tools"}},
		{"go.etcd.io/bbolt", []string{"pkg/store"}},
		{"github.com/spf13/cobra", []string{"pkg/cli", "cmd"}},
		{"github.com/quic-go/quic-go", []string{"test", "tools"}},
	}
}
