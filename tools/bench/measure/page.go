package measure

import (
	"bytes"
	"text/template"
)

// Page renders a page from the text of its template.
func Page(text string, data any) ([]byte, error) {
	page, err := template.New("page").Parse(text)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = page.Execute(&b, data)
	return b.Bytes(), err
}
