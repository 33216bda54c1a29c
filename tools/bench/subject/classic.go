package subject

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/maglev"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// classic is the program that Steelyard is compared with, see classic.bpf.c. It has
// the case's VIPs as services, or, where packets are replies, the backends.
type classic struct {
	classicObjects
	foreign bool
}

// NewClassic loads the classic program with room for flows.
func NewClassic(c Case, flows uint64) (Subject, error) {
	spec, err := loadClassic()
	if err != nil {
		return nil, err
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	room := max(c.Room, 1<<16)
	if c.Room == 0 {
		room = max(room, flows)
	}
	services := c.services()
	// Each CPU has an equal part of such a hash, and one CPU does all the work.
	spec.Maps["flows"].MaxEntries = uint32(room) * uint32(cpus)
	spec.Maps["services"].MaxEntries = uint32(len(services))
	spec.Maps["service_counters"].MaxEntries = uint32(len(services))
	if err := spec.Variables["answers"].Set(c.Packets == Replies); err != nil {
		return nil, err
	}
	if c.Rewrite != nil {
		if err := c.Rewrite(spec); err != nil {
			return nil, err
		}
	}
	s := &classic{foreign: c.Packets == Foreign}
	if err := spec.LoadAndAssign(&s.classicObjects, nil); err != nil {
		return nil, fmt.Errorf("load the classic program: %w", err)
	}
	if err := s.fill(c, services); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("the classic program's maps: %w", err)
	}
	return s, nil
}

// services are where the packets that it takes go to or, if they are replies, come from.
func (c *Case) services() []netip.AddrPort {
	var all []netip.AddrPort
	if c.Packets == Replies {
		for i := range BackendsPerPool {
			all = append(all, netip.AddrPortFrom(c.backend(1+i).Address, portBackend))
		}
		return all
	}
	for i := range c.VIPs {
		all = append(all, netip.AddrPortFrom(c.vip(i), port))
	}
	return all
}

func (s *classic) fill(c Case, services []netip.AddrPort) error {
	for i, service := range services {
		key := classicServiceKey{Address: wordsOf(service.Addr()), Protocol: uint8(c.Protocol)}
		var wire [2]byte
		binary.BigEndian.PutUint16(wire[:], service.Port())
		key.Port = binary.LittleEndian.Uint16(wire[:])
		if err := s.Services.Put(key, classicService{Number: uint32(i)}); err != nil {
			return err
		}
	}
	var backends []maglev.Backend
	for i := range BackendsPerPool {
		address := c.backend(1 + i).Address
		backends = append(backends, maglev.Backend{ID: address.String(), Weight: 1})
		if err := s.Backends.Put(uint32(i), classicBackend{Address: wordsOf(address)}); err != nil {
			return err
		}
	}
	table, err := maglev.Build(model.DefaultTableSize, backends)
	if err != nil {
		return err
	}
	places := make([]uint32, len(table))
	for i := range places {
		places[i] = uint32(i)
	}
	_, err = s.Ring.BatchUpdate(places, table, nil)
	return err
}

// wordsOf is an address as the program has it: of IPv4 the first word alone.
func wordsOf(a netip.Addr) (words [4]uint32) {
	for i, b := 0, a.AsSlice(); len(b) > 0; i, b = i+1, b[4:] {
		words[i] = binary.LittleEndian.Uint32(b)
	}
	return words
}

func (s *classic) Program() *ebpf.Program { return s.Classic }

func (s *classic) Tally() (Tally, error) {
	var passed, entered, forwarded uint64
	if err := s.Passed.Get(&passed); err != nil {
		return Tally{}, err
	}
	if err := s.Entered.Get(&entered); err != nil {
		return Tally{}, err
	}
	var number uint32
	var perCPU []classicCounters
	entries := s.ServiceCounters.Iterate()
	for entries.Next(&number, &perCPU) {
		for _, c := range perCPU {
			forwarded += c.Packets
		}
	}
	t := Tally{Expected: forwarded, Others: passed, Begun: entered, Where: []string{fmt.Sprintf("%d passed", passed)}}
	if s.foreign {
		t = Tally{Expected: passed, Others: forwarded, Where: []string{fmt.Sprintf("%d forwarded", forwarded)}}
	}
	return t, entries.Err()
}
