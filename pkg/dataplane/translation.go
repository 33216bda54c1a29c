package dataplane

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// The layout of a translation's state; see bpf/translation.h.
const (
	natGenerationShift = 40
	natGenerationMask  = 0xffff
)

// translation is a connection of a fullnat VIP, as far as the control plane looks at it.
type translation struct {
	seen    flux.Tick
	backend uint32
	vip     uint32
	flags   lbNatFlag
}

func decodeTranslation(t *lbTranslation, state uint64) translation {
	return translation{
		seen:    flux.Tick(state & flowTickMask),
		backend: uint32(state >> flowBackendShift & flowBackendMask),
		vip:     uint32(t.Vip),
		flags:   lbNatFlag(state >> flowFlagsShift),
	}
}

// natNow is the translations' time.
func natNow() (flux.Tick, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		return 0, err
	}
	return flux.Tick(ts.Nano()>>natTickShift) & flowTickMask, nil
}

const natOpen = lbNatFlagNAT_REPLIED | lbNatFlagNAT_SPOKEN

const natClosed = lbNatFlagNAT_CLIENT_CLOSED | lbNatFlagNAT_BACKEND_CLOSED

// expired reports whether a connection is over; see nat_idle in bpf/translation.h.
func (t translation) expired(now flux.Tick, idle uint32) bool {
	if t.flags&natOpen != natOpen || t.flags&lbNatFlagNAT_RESET != 0 || t.flags&natClosed == natClosed {
		idle = natTransitory
	}
	return t.age(now) > idle
}

// age is for how many ticks a connection has been silent.
func (t translation) age(now flux.Tick) uint32 {
	age := uint32(flux.Age(now, t.seen))
	if age > flowTickMask/2 {
		return 0 // a CPU may have read the clock later
	}
	return age
}

// silent reports whether a connection has been for longer than a time.
func (t translation) silent(now flux.Tick, length time.Duration) bool {
	return t.age(now) > uint32(length>>natTickShift)
}

// flow is the client's side of a translation.
func (t *lbTranslation) flow(protocol model.Protocol) Flow {
	port := func(n uint32) uint16 { return bits.ReverseBytes16(uint16(n)) }
	return Flow{
		Source:      netip.AddrPortFrom(unmapped(t.Client), port(t.Ports)),
		Destination: netip.AddrPortFrom(unmapped(t.Address), port(t.Ports>>16)),
		Protocol:    protocol,
	}
}

// unmapped is the inverse of address.
func unmapped(a lbAddress) netip.Addr {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:8], a.Word[0])
	binary.LittleEndian.PutUint64(b[8:], a.Word[1])
	return netip.AddrFrom16(b).Unmap()
}

// protocolOf is that of a translation's index.
func protocolOf(index uint32) model.Protocol {
	if index&natUDP != 0 {
		return model.UDP
	}
	return model.TCP
}

// visitTranslation frees the port of a connection that is over, or notes what it says.
func (p *Plane) visitTranslation(s *sweep, index uint32) {
	e := &p.translations.elements[index]
	state := atomic.LoadUint64(&e.State)
	t := decodeTranslation(e, state)
	if t.flags&lbNatFlagNAT_USED == 0 {
		return
	}
	vip, at := p.vipByID[t.vip], p.placeOf(t.backend)
	if vip == nil || at == nil || t.expired(s.natNow, p.natTimeouts.elements[t.vip].Idle) {
		p.freeTranslation(index, state)
		return
	}
	s.translations++
	if at != vip.place {
		s.strays[t.vip] = true
	}
	s.backends[t.backend]++
	p.countTranslation(s, t)
	s.vips[t.vip]++
}

// freeTranslation gives a port back, unless its connection has gone on meanwhile.
func (p *Plane) freeTranslation(index uint32, state uint64) {
	e := &p.translations.elements[index]
	flow := e.flow(protocolOf(index))
	if !atomic.CompareAndSwapUint64(&e.State, state, state&(natGenerationMask<<natGenerationShift)) {
		return
	}
	if hash := p.seed.Hash(flow); !p.natSources.isAtHome(flow, hash, index) {
		p.dropSession(hash, index)
	}
	if port := uint16(index); p.natSources.Ports.Contains(port) {
		line := &p.natPorts.elements[index/natPortsPerLine]
		atomic.AndUint64(&line.Word[index/natPortsPerWord%8], ^(uint64(1) << (index % natPortsPerWord)))
	}
}

// sessionWord is the entry of a translation among sessions; see bpf/session.h.
func sessionWord(hash uint64, index uint32) uint64 {
	return hash>>32<<32 | uint64(index+1)
}

// sessionBuckets are those in which the entry of a hash may be: its own and next door.
func (p *Plane) sessionBuckets(hash uint64) [2]*lbSessionBucket {
	at := uint32(hash) & uint32(len(p.sessions.elements)-1)
	next := (at ^ 1) & uint32(len(p.sessions.elements)-1)
	return [2]*lbSessionBucket{&p.sessions.elements[at], &p.sessions.elements[next]}
}

func (p *Plane) dropSession(hash uint64, index uint32) {
	word := sessionWord(hash, index)
	for _, b := range p.sessionBuckets(hash) {
		for i := range b.Word {
			if atomic.CompareAndSwapUint64(&b.Word[i], word, 0) {
				return
			}
		}
	}
}

func (p *Plane) addSession(hash uint64, index uint32) bool {
	for _, b := range p.sessionBuckets(hash) {
		for i := range b.Word {
			if atomic.CompareAndSwapUint64(&b.Word[i], 0, sessionWord(hash, index)) {
				return true
			}
		}
	}
	return false
}

// markPorts notes which ports are not free: those in use, and those that are none of
// ours. Packets look there before they look at translations, so it may lag behind.
func (p *Plane) markPorts() {
	for i := range p.natPorts.elements {
		for j := range p.natPorts.elements[i].Word {
			var word uint64
			for bit := range uint32(natPortsPerWord) {
				index := uint32(i)*natPortsPerLine + uint32(j)*natPortsPerWord + bit
				if index >= uint32(len(p.translations.elements)) {
					continue
				}
				inUse := atomic.LoadUint64(&p.translations.elements[index].State)>>flowFlagsShift != 0
				if inUse || !p.natSources.Ports.Contains(uint16(index)) {
					word |= 1 << bit
				}
			}
			atomic.StoreUint64(&p.natPorts.elements[i].Word[j], word)
		}
	}
}

// sameSources reports whether connections of pinned maps come from the addresses and ports
// that they would come from now: a translation's place stands for one, and is where the
// hash of its flow leads among them.
func (p *Plane) sameSources(pinned *ebpf.Map) (bool, error) {
	m, err := mapMemory[lbLedgerPage](pinned)
	if err != nil {
		return false, err
	}
	defer m.close()
	l, err := p.readLedger(m)
	if err != nil {
		return true, nil // who adopts the maps refuses it, and says so
	}
	return l.NAT == p.natSources, nil
}

// carryTranslations copies the connections of the former maps whose addresses are still
// among the sources. The others are lost, as their addresses are.
func (p *Plane) carryTranslations() error {
	if p.former[lbMapTranslations] == nil || p.formerSources.count() == 0 {
		return nil
	}
	former, err := mapMemory[lbTranslation](p.former[lbMapTranslations])
	if err != nil {
		return err
	}
	for i := range former.elements {
		index := uint32(i)
		number, kept := p.natSources.number(p.formerSources.address(index / natPerAddress))
		if kept {
			p.carryTranslation(&former.elements[i], number*natPerAddress+index%natPerAddress)
		}
	}
	return former.close()
}

// carryTranslation enters a connection, unless its port is in use.
func (p *Plane) carryTranslation(from *lbTranslation, index uint32) {
	state := atomic.LoadUint64(&from.State)
	to := &p.translations.elements[index]
	was := atomic.LoadUint64(&to.State)
	if lbNatFlag(state>>flowFlagsShift)&lbNatFlagNAT_USED == 0 || was>>flowFlagsShift != 0 {
		return
	}
	if !atomic.CompareAndSwapUint64(&to.State, was, was|uint64(lbNatFlagNAT_CLAIMED)<<flowFlagsShift) {
		return
	}
	entry := *from
	entry.State = to.State
	*to = entry
	atomic.StoreUint64(&to.State, state)
	line := &p.natPorts.elements[index/natPortsPerLine]
	atomic.OrUint64(&line.Word[index/natPortsPerWord%8], 1<<(index%natPortsPerWord))
	flow := to.flow(protocolOf(index))
	if hash := p.seed.Hash(flow); !p.natSources.isAtHome(flow, hash, index) && !p.addSession(hash, index) {
		p.freeTranslation(index, state)
	}
}
