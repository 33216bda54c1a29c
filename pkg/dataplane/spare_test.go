package dataplane

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// A spare is programs and maps that one test after the other makes its Plane of: the
// verifier takes longer than most tests. What a Plane has in Go is always a new one's.
type spare struct {
	spec    *ebpf.CollectionSpec
	objects kernelObjects
}

// spareKey is what programs and maps depend on.
type spareKey struct {
	limits  Limits
	options Options
}

// mostSpares is how many are kept for the next test at once.
const mostSpares = 16

// spareParts are the spares that no test has. The mutex guards idle, oldest first.
type spareParts struct {
	mu   sync.Mutex
	idle []idleSpare
}

type idleSpare struct {
	key spareKey
	*spare
}

var spares spareParts

// take returns a spare that is nobody else's.
func (s *spareParts) take(key spareKey) (*spare, error) {
	s.mu.Lock()
	for i := len(s.idle) - 1; i >= 0; i-- {
		if found := s.idle[i]; found.key == key {
			s.idle = append(s.idle[:i:i], s.idle[i+1:]...)
			s.mu.Unlock()
			return found.spare, nil
		}
	}
	s.mu.Unlock()
	return newSpare(key)
}

func (s *spareParts) giveBack(key spareKey, given *spare) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = append(s.idle, idleSpare{key, given})
	if len(s.idle) <= mostSpares {
		return nil
	}
	oldest := s.idle[0]
	s.idle = s.idle[1:]
	return oldest.close()
}

func newSpare(key spareKey) (*spare, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, err
	}
	spec, err := loadLb()
	if err != nil {
		return nil, err
	}
	if err := specialize(spec, key.limits, key.options); err != nil {
		return nil, err
	}
	s := &spare{spec: spec}
	return s, spec.LoadAndAssign(&s.objects, nil)
}

// plane makes a Plane as Load does, but of the spare.
func (s *spare) plane(key spareKey) (*Plane, error) {
	p, err := newPlane(s.spec, key.limits, key.options)
	if err != nil {
		return nil, err
	}
	var objects kernelObjects
	if err := eachObject(reflect.ValueOf(&s.objects).Elem(), reflect.ValueOf(&objects).Elem(), clone); err != nil {
		return nil, err
	}
	if err := p.use(objects); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if err := s.wipe(p); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if err := p.takeOver(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (s *spare) close() error {
	return eachObject(reflect.ValueOf(&s.objects).Elem(), reflect.ValueOf(&kernelObjects{}).Elem(), func(from, _ reflect.Value) error {
		return from.Interface().(interface{ Close() error }).Close()
	})
}

// eachObject calls f with every map and program of one struct, and where it is in another.
func eachObject(from, to reflect.Value, f func(from, to reflect.Value) error) error {
	var errs []error
	for i := range from.NumField() {
		if from.Field(i).Kind() == reflect.Struct {
			errs = append(errs, eachObject(from.Field(i), to.Field(i), f))
			continue
		}
		switch from.Field(i).Interface().(type) {
		case *ebpf.Map, *ebpf.Program: // a variable belongs to one of the maps
			errs = append(errs, f(from.Field(i), to.Field(i)))
		}
	}
	return errors.Join(errs...)
}

// clone has a second descriptor be in the other place.
func clone(from, to reflect.Value) error {
	var object any
	var err error
	switch o := from.Interface().(type) {
	case *ebpf.Map:
		object, err = o.Clone()
	case *ebpf.Program:
		object, err = o.Clone()
	}
	if err == nil {
		to.Set(reflect.ValueOf(object))
	}
	return err
}

// wipe has the maps of a Plane hold what they do when they are made.
func (s *spare) wipe(p *Plane) error {
	all := p.mapsByName()
	var errs []error
	for name, spec := range s.spec.Maps {
		if spec.Flags&unix.BPF_F_RDONLY_PROG != 0 {
			continue // constants, which nothing can change
		}
		if all[name] == nil {
			return fmt.Errorf("nobody has the map %s", name)
		}
		if err := wipe(all[name], spec); err != nil {
			errs = append(errs, fmt.Errorf("map %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func wipe(m *ebpf.Map, spec *ebpf.MapSpec) error {
	switch m.Type() {
	case ebpf.Array:
		return inMemory(m, func(b []byte) {
			clear(b)
			for _, at := range spec.Contents { // of one element: variables
				copy(b, at.Value.([]byte))
			}
		})
	case ebpf.PerCPUArray:
		zeroes := make([][]byte, ebpf.MustPossibleCPU())
		for i := range zeroes {
			zeroes[i] = make([]byte, m.ValueSize())
		}
		for key := range m.MaxEntries() {
			if err := m.Put(key, zeroes); err != nil {
				return err
			}
		}
		return nil
	case ebpf.Hash, ebpf.LRUHash, ebpf.DevMapHash:
		for {
			key, err := m.NextKeyBytes(nil)
			if err != nil || key == nil {
				return err
			}
			if err := m.Delete(key); err != nil {
				return err
			}
		}
	case ebpf.ArrayOfMaps:
		for key := range m.MaxEntries() {
			if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return err
			}
		}
		return nil
	case ebpf.ProgramArray:
		return nil // which Plane.use fills
	}
	return fmt.Errorf("nothing is known of maps of type %s", m.Type())
}

// inMemory calls f with what an array holds.
func inMemory(m *ebpf.Map, f func([]byte)) error {
	length, page := int(m.MaxEntries()*m.ValueSize()), os.Getpagesize()
	b, err := unix.Mmap(m.FD(), 0, (length+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	f(b[:length])
	return unix.Munmap(b)
}

// reusable reports whether another test may have what a Plane used: an LRU map has more
// to it than what it holds, and packets of an interface may come late.
func (s *spare) reusable(p *Plane) bool {
	key, err := s.objects.Splices.NextKeyBytes(nil)
	return err == nil && key == nil && len(p.attached) == 0
}

// fresh is a Plane by Load, for tests that attach it or count what is open.
func fresh(t testing.TB, limits Limits) *Plane {
	t.Helper()
	p, err := Load(withRoom(limits), testOptions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// loaded is a Plane that lives as long as the test.
func loaded(t testing.TB, limits Limits) *Plane {
	t.Helper()
	return loadedWith(t, limits, testOptions())
}

// loadedWith returns what Load does, in a hundredth of the time where a former test
// wanted the same.
func loadedWith(t testing.TB, limits Limits, options Options) *Plane {
	t.Helper()
	key := spareKey{withRoom(limits), options}
	s, err := spares.take(key)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.plane(key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, benchmark := t.(*testing.B) // whose maps are large
		again := s.reusable(p) && !t.Failed() && !benchmark
		if err := p.Close(); err != nil {
			t.Error(err)
			again = false
		}
		if again {
			err = spares.giveBack(key, s)
		} else {
			err = s.close()
		}
		if err != nil {
			t.Error(err)
		}
	})
	return p
}
