package main

func (r *report) savePage(file string) error { return nil }
