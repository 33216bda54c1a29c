package dataplane

// natSettings are the labs of the packet table of VIPs that translate.
func natSettings() []natSetting {
	return []natSetting{
		{"", natOptions(), nil, []func(*natTable, family) []row{natFlowRows, natFormRows, natErrorRows, natTroubleRows}},
	}
}
