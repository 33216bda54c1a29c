// Package metrics shows a daemon's status to Prometheus. Nothing is kept or counted
// here: each scrape asks for the status, which is read from the data plane's maps.
package metrics

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// statusTime bounds the reading of one status. It is below Prometheus's own
// scrape_timeout, 10 s by default, so that its log says what was late.
const statusTime = 5 * time.Second

// Source is where the status comes from.
type Source interface {
	Status(ctx context.Context) (model.Status, error)
}

// NewHandler returns the page that Prometheus scrapes: the metrics of the status,
// all prefixed with "steelyard_", and those of the process and of the Go runtime.
// A scrape fails with 500 if the source does or takes longer than 5 s: Prometheus
// then sets "up" to 0 and marks every series stale, rather than showing a part.
func NewHandler(source Source, version string) http.Handler {
	process := prometheus.NewRegistry()
	process.MustRegister(
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewGoCollector(),
	)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), statusTime)
		defer cancel()
		status, err := source.Status(ctx)
		if err != nil {
			http.Error(w, "cannot read the status: "+err.Error(), http.StatusInternalServerError)
			return
		}
		scrape := prometheus.NewRegistry()
		if err := scrape.Register(snapshot{status, version}); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		promhttp.HandlerFor(prometheus.Gatherers{scrape, process}, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
}
