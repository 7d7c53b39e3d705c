package detect

import (
	"fmt"
	"time"
)

// checkCount says what is wrong with a setting that is a number.
func checkCount(key string, n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("%s: is %d, must lie between %d and %d", key, n, least, most)
	}
	return nil
}

// checkRatio says what is wrong with a setting that is a factor or a share.
func checkRatio(key string, x, least, most float64) error {
	if !(x >= least && x <= most) { // so that NaN is wrong, too
		return fmt.Errorf("%s: is %g, must lie between %g and %g", key, x, least, most)
	}
	return nil
}

// checkSpan says what is wrong with a setting that is a time span.
func checkSpan(key string, d, least, most time.Duration) error {
	if d < least || d > most {
		return fmt.Errorf("%s: is %v, must lie between %v and %v", key, d, least, most)
	}
	return nil
}

// firstError is the first that is one.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
