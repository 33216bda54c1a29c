package store

import (
	"errors"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// limitsRecord has limits as [model.ParseLimit] reads them.
type limitsRecord struct {
	Connections       string `json:"connections,omitempty"`
	Packets           string `json:"packets,omitempty"`
	SourceConnections string `json:"source_connections,omitempty"`
	SourcePackets     string `json:"source_packets,omitempty"`
	IPv4Prefix        uint8  `json:"ipv4_prefix,omitempty"`
	IPv6Prefix        uint8  `json:"ipv6_prefix,omitempty"`
}

func encodeLimits(l model.Limits) *limitsRecord {
	if l == (model.Limits{}) {
		return nil
	}
	text := func(l model.Limit) string {
		if l.Rate == 0 {
			return ""
		}
		return l.String()
	}
	return &limitsRecord{
		text(l.Connections), text(l.Packets), text(l.SourceConnections), text(l.SourcePackets), l.IPv4Prefix, l.IPv6Prefix,
	}
}

func (r *limitsRecord) limits() (model.Limits, error) {
	if r == nil {
		return model.Limits{}, nil
	}
	l := model.Limits{IPv4Prefix: r.IPv4Prefix, IPv6Prefix: r.IPv6Prefix}
	var errs [4]error
	l.Connections, errs[0] = orDefault(r.Connections, model.Limit{}, model.ParseLimit)
	l.Packets, errs[1] = orDefault(r.Packets, model.Limit{}, model.ParseLimit)
	l.SourceConnections, errs[2] = orDefault(r.SourceConnections, model.Limit{}, model.ParseLimit)
	l.SourcePackets, errs[3] = orDefault(r.SourcePackets, model.Limit{}, model.ParseLimit)
	return l, errors.Join(errs[:]...)
}
