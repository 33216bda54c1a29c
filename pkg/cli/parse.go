package cli

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/steelyard-lb/steelyard/pkg/api"
	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// given returns a flag's value, or nil if it was left out.
func given[T any](cmd *cobra.Command, flag string, value T) *T {
	if !cmd.Flags().Changed(flag) {
		return nil
	}
	return &value
}

// anyGiven reports whether a setting was given among the command's own flags.
func anyGiven(cmd *cobra.Command) bool {
	found := false
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		found = found || f.Changed && f.Name != expectFlag
	})
	return found
}

// parseEndpoint reads an address and its ports: "192.0.2.10:80",
// "192.0.2.10:80,443,8000-8100", "[2001:db8::1]:any".
func parseEndpoint(s string) ([]*steelyardv1.Endpoint, error) {
	host, services, err := net.SplitHostPort(s)
	if err != nil {
		if addr, bare := netip.ParseAddr(s); bare == nil {
			return nil, invalid("%q has no port; write %s, or %s for all ports", s, model.FormatEndpoint(addr, 80), model.FormatEndpoint(addr, 0))
		}
		return nil, invalid("%q is not an address and ports, such as 192.0.2.10:80, 192.0.2.10:80,443, [2001:db8::1]:8000-8100 or 192.0.2.10:any", s)
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return nil, invalid("%q is not an address; names are not looked up", host)
	}
	var out []*steelyardv1.Endpoint
	for service := range strings.SplitSeq(services, ",") {
		ports, err := model.ParsePortRange(service)
		if err != nil {
			return nil, invalid("endpoint %q: %v", s, err)
		}
		out = append(out, api.EncodeEndpoint(model.Endpoint{Address: addr, Ports: ports}))
	}
	return out, nil
}

func parseEndpoints(words []string) ([]*steelyardv1.Endpoint, error) {
	var out []*steelyardv1.Endpoint
	for _, word := range words {
		endpoints, err := parseEndpoint(word)
		if err != nil {
			return nil, err
		}
		out = append(out, endpoints...)
	}
	return out, nil
}

func parsePort(s string) (uint16, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || port == 0 {
		return 0, invalid("%q is not a port: want 1 to 65535", s)
	}
	return uint16(port), nil
}

// parseBackendID reads "10.0.1.10", "10.0.1.10:8080", "[2001:db8::10]:8080".
func parseBackendID(s string) (model.BackendID, error) {
	id, err := model.ParseBackendID(s)
	if err != nil {
		return id, invalid("%v", err)
	}
	return id, nil
}

// backendFields names a backend in a request.
func backendFields(id model.BackendID) *steelyardv1.BackendFields {
	return &steelyardv1.BackendFields{Address: id.Address.String(), Port: uint32(id.Port)}
}

// parseBackend reads a backend with its settings: "10.0.1.10,weight=2,state=disabled",
// "10.0.1.10,server_id=0:c4605e".
func parseBackend(s string) (*steelyardv1.BackendFields, error) {
	name, settings, _ := strings.Cut(s, ",")
	id, err := parseBackendID(name)
	if err != nil {
		return nil, err
	}
	fields := backendFields(id)
	for setting := range strings.SplitSeq(settings, ",") {
		key, value, _ := strings.Cut(setting, "=")
		switch key {
		case "":
		case "weight":
			weight, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return nil, invalid("backend %s: weight %q is not a number from 0 to %d", id, value, model.MaxWeight)
			}
			fields.Weight = new(uint32(weight))
		case "max_connections":
			most, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return nil, invalid("backend %s: max_connections %q is not a number from 0 to %d", id, value, model.MaxMaxConnections)
			}
			fields.MaxConnections = new(uint32(most))
		case "state":
			fields.State = &value
		case "server_id":
			if fields.ServerIds == nil {
				fields.ServerIds = &steelyardv1.ServerIDs{}
			}
			fields.ServerIds.Ids = append(fields.ServerIds.Ids, value)
		default:
			return nil, invalid("backend %s: unknown setting %q; want weight=N, max_connections=N, state=STATE or server_id=CONFIG:HEX", id, setting)
		}
	}
	return fields, nil
}

func parseBackends(specs []string) ([]*steelyardv1.BackendFields, error) {
	var out []*steelyardv1.BackendFields
	for _, s := range specs {
		b, err := parseBackend(s)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// parseCheck reads TYPE[:PORT][/PATH], such as "tcp", "http:8080/healthz".
func parseCheck(s string) (*steelyardv1.CheckFields, error) {
	head, path, hasPath := strings.Cut(s, "/")
	kind, service, hasPort := strings.Cut(head, ":")
	if _, err := model.ParseCheckType(kind); err != nil {
		return nil, invalid("check %q: %v; write TYPE[:PORT][/PATH], or none", s, err)
	}
	fields := &steelyardv1.CheckFields{Type: &kind}
	if hasPort {
		port, err := parsePort(service)
		if err != nil {
			return nil, invalid("check %q: %v", s, err)
		}
		fields.Port = new(uint32(port))
	}
	if hasPath {
		fields.Path = new("/" + path)
	}
	return fields, nil
}

// parseChecks reads the values of --check; none reports that there shall be none.
// A check is named after its type, the second of a type "http-2" and so on.
func parseChecks(specs []string) (checks []*steelyardv1.CheckFields, none bool, err error) {
	seen := map[string]int{}
	for _, s := range specs {
		if s == "none" {
			none = true
			continue
		}
		c, err := parseCheck(s)
		if err != nil {
			return nil, false, err
		}
		if seen[c.GetType()]++; seen[c.GetType()] > 1 {
			c.Name = fmt.Sprintf("%s-%d", c.GetType(), seen[c.GetType()])
		}
		checks = append(checks, c)
	}
	if none && len(checks) > 0 {
		return nil, false, invalid("--check none and other checks contradict each other")
	}
	return checks, none, nil
}
