package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/api"
	"github.com/steelyard-lb/steelyard/pkg/metrics"
)

// shutdownTime is how long requests that are under way may take to end.
const shutdownTime = 2 * time.Second

func (d *daemon) serveAPI(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle(api.NewHandler(d.loop, time.Now))
	return serve(ctx, d.api, mux)
}

func (d *daemon) serveMetrics(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics.NewHandler(d.loop, d.Version))
	return serve(ctx, d.metrics, mux)
}

// serve answers on a listener until ctx ends, and closes it.
func serve(ctx context.Context, l net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		Protocols:         new(http.Protocols),
	}
	server.Protocols.SetHTTP1(true)
	// gRPC needs it.
	server.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	deadline, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	err := server.Shutdown(deadline)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	<-done
	return err
}
